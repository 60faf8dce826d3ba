# Images of avkit, each a target: prepare (no torch), cpu, cuda.
#
#   docker build --target prepare --tag avkit:prepare .
#   docker build --target cuda --tag avkit:cuda .
#   docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" avkit:prepare inspect vggsound
#   docker run --rm --gpus all --ipc host --volume "$PWD:/data" --user "$(id -u):$(id -g)" avkit:cuda pretrain demo --data synth
#
# The image cpu has the torch of PyPI, with CUDA, unless the address of PyTorch's index of CPU wheels is given:
#   docker build --target cpu --build-arg TORCH_INDEX=ADDRESS --tag avkit:cpu .
#
# With Apptainer, as on most clusters:
#   apptainer build avkit.sif docker-daemon://avkit:cuda
#   apptainer exec --nv --bind /scratch avkit.sif avkit pretrain deepavfusion --data /scratch/vggsound

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/avkit && /opt/avkit/bin/pip install --no-cache-dir uv==0.13.9
ENV UV_NO_CACHE=1 UV_PYTHON=/opt/avkit/bin/python UV_LINK_MODE=copy
COPY requirements.lock ./
# The versions of the lock hold in the image too. Hashes are left out: the wheels of a CPU index have others.
RUN sed -n 's/^\([A-Za-z0-9].*==.*[^ ]\) *\\$/\1/p' requirements.lock > constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY avkit avkit
COPY avdata avdata
COPY avmodel avmodel
COPY cli cli
COPY manifests manifests

FROM build AS build-prepare
RUN /opt/avkit/bin/uv pip install --constraint constraints.txt '.[ffmpeg,s3]' \
    && /opt/avkit/bin/uv pip uninstall uv

FROM build AS build-cpu
ARG TORCH_INDEX=""
RUN /opt/avkit/bin/uv pip install --constraint constraints.txt ${TORCH_INDEX:+--default-index "$TORCH_INDEX"} torch torchaudio \
    && /opt/avkit/bin/uv pip install --constraint constraints.txt '.[train,s3]' \
    && /opt/avkit/bin/uv pip uninstall uv

FROM build AS build-cuda
RUN /opt/avkit/bin/uv pip install --constraint constraints.txt '.[train,s3]' \
    && /opt/avkit/bin/uv pip uninstall uv

FROM python:3.12-slim-bookworm AS runtime
RUN useradd --uid 1000 --create-home avkit && mkdir /data && chown avkit /data
ENV PATH=/opt/avkit/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /data
USER 1000
ENTRYPOINT ["avkit"]
CMD ["--help"]

FROM runtime AS prepare
COPY --from=build-prepare /opt/avkit /opt/avkit
RUN ["avkit", "--version"]

FROM runtime AS cpu
COPY --from=build-cpu /opt/avkit /opt/avkit
RUN ["avkit", "--version"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/avkit /opt/avkit
# torch's wheels bring CUDA; the driver is mounted by the NVIDIA container toolkit.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN ["avkit", "--version"]
