"""Devices and precisions that are not here, and a world of one."""

import pytest
import torch

from avmanifest.errors import ConfigError
from avmodel.distributed import World, choose_device, join_world
from avmodel.precision import autocast, require_precision

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


@pytest.mark.parametrize(
    ("name", "said"),
    [("gpu", "unknown device 'gpu'; known: auto, cpu, cuda, cuda:NUMBER"), ("mps", "training runs on cpu and cuda")],
)
def test_a_device_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_device(name)


@needs_no_gpu
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error() -> None:
    assert choose_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ConfigError, match=rf"device='{name}(:0)?': 0 CUDA devices here\. Set device=cpu"):
            choose_device(name)


def test_halves_need_a_gpu() -> None:
    require_precision("float32", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"precision=bfloat16 on cpu: .* Set precision=float32"):
        require_precision("bfloat16", torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"precision=float16 on cpu: it needs a CUDA device\. Set precision=float32"):
        require_precision("float16", torch.device("cpu"))
    known = "float32, bfloat16, bfloat16-residual, float16"
    with pytest.raises(ConfigError, match=rf"unknown precision 'float64'; did you mean .*\? known: {known}"):
        require_precision("float64", torch.device("cpu"))


def test_autocast_acts_only_where_asked() -> None:
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2)
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        with autocast(precision, torch.device("cpu")):
            assert layer(x).dtype == dtype


def test_a_world_of_one_is_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world("cpu") as world:
        assert world == World(0, 1, torch.device("cpu"))
        assert world.is_main
        assert world.mean(torch.tensor([3.0])).item() == 3.0
        assert (world.any(True), world.any(False)) == (True, False)
        assert world.gather(torch.eye(2)).tolist() == torch.eye(2).tolist()
        world.barrier()
