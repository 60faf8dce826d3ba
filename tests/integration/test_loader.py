"""The loader where it is used: by training, from the command line, and beside webdataset."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner
from webdataset.tariterators import group_by_keys, tar_file_iterator

from avcli.main import app
from avdata.load import CacheConfig, EvalView, Loader, LoaderConfig, evaluation_config, open_dataset
from avmanifest.errors import ConfigError
from avmodel.configs.data import DataConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.distributed import World
from avmodel.inputs import cache_of, probe_loader, train_loader
from tests.serving import serving

MODEL = DeepAVFusionConfig(image_size=(32, 32))
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_webdataset_reads_the_same_samples(drawn: Path, tmp_path: Path) -> None:
    """Plain streaming of the same tars and the walked index agree with the manifest, member by member."""
    url = f"{drawn}/train/{{00000..00003}}.tar"
    streamed = {}
    for tar in sorted(drawn.glob("train/*.tar")):
        with tar.open("rb") as file:
            members = ({**member, "__url__": str(tar)} for member in tar_file_iterator(file))
            streamed |= {sample["__key__"]: sample for sample in group_by_keys(members)}
    dataset = open_dataset(url)
    assert dataset.keys.to_pylist() == list(streamed)
    for sample, key in enumerate(streamed):
        tar = Path(dataset.shards[int(dataset.shard_of[sample])].url).read_bytes()
        mel = dataset.log_mel["paper"]
        assert tar[mel.offset[sample] :][: mel.size[sample]] == streamed[key]["logmel.npy"]
        for number in range(dataset.frame_start[sample], dataset.frame_start[sample + 1]):
            begin, size = dataset.frames.offset[number], dataset.frames.size[number]
            assert tar[begin : begin + size] == streamed[key][dataset.frame_names[dataset.frame_member[number]]]
    alone = tmp_path / "alone.tar"
    alone.write_bytes((drawn / "train/00000.tar").read_bytes())
    walked = open_dataset(alone, cache=CacheConfig(root=tmp_path / "cache"))
    assert walked.keys.to_pylist() == list(streamed)[:6]
    view = EvalView(image_size=8)
    config = evaluation_config(LoaderConfig(batch_size=6, num_workers=0))
    one, other = (next(iter(Loader(found, view, config))) for found in (walked, dataset))
    assert torch.equal(one.log_mel, other.log_mel)


def test_training_runs_a_command_only_if_it_may(drawn: Path, tmp_path: Path) -> None:
    url = f"pipe:cat {drawn}/train/00000.tar"
    options = {"cache_dir": str(tmp_path / "cache"), "num_workers": 0, "window_s": 3.0}
    with pytest.raises(ConfigError, match="--allow-pipe"):
        train_loader(DataConfig(**options), MODEL, url, ALONE, batch_size=2, seed=0)
    loader = train_loader(DataConfig(**options, allow_pipe=True), MODEL, url, ALONE, batch_size=2, seed=0)
    assert sorted(key for batch in loader for key in batch.keys) == [f"clip-{number:05d}" for number in range(6)]
    refused = CliRunner().invoke(app, ["pretrain", "demo", "--data", url, "--out", str(tmp_path / "run")])
    assert "runs a command" in str(refused.exception)
    for words in (["--allow-pipe"], ["--set", "data.allow_pipe=true"]):
        told = CliRunner().invoke(app, ["pretrain", "demo", *words, "--explain"])
        assert "data.allow_pipe=true" in told.stdout


def test_training_and_probing_read_from_afar_into_the_runs_own_cache(drawn: Path, tmp_path: Path) -> None:
    data = DataConfig(cache_dir=str(tmp_path / "cache"), cache_gb=0.5, num_workers=0, probe_split="train")
    assert cache_of(data) == CacheConfig(root=tmp_path / "cache", max_bytes=500_000_000)
    with serving(drawn) as server:
        loader = train_loader(data, MODEL, server.url, ALONE, batch_size=4, seed=0)
        assert len({key for batch in loader for key in batch.keys}) == 20
        probe = probe_loader(data, MODEL, server.url, ALONE, batch_size=4)
        assert probe is not None
        assert sum(int(batch.valid.sum()) for batch in probe) == 20
        assert probe_loader(DataConfig(probe_split="val"), MODEL, server.url, ALONE, batch_size=4) is None
    assert len(list((tmp_path / "cache").glob("*.shard"))) == 4


def test_several_folders_are_one_training_set(drawn: Path) -> None:
    with pytest.raises(ConfigError, match="names a folder twice"):
        train_loader(DataConfig(), MODEL, [str(drawn), str(drawn)], ALONE, batch_size=4, seed=0)


@pytest.mark.slow
def test_the_benchmark_tells_what_the_budget_is_about(drawn: Path) -> None:
    words = ["bench", "loader", str(drawn), "--samples", "32", "--rounds", "1", "--batch-size", "8", "--json"]
    command = [sys.executable, "-c", "from avcli.main import run; run()", *words]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    for name in ("avkit", "webdataset", "webdataset_stock", "decode_resize"):
        assert found[f"{name}_samples_per_s"] > 0
        assert found["memory_mb"][name] > 0
    assert found["cores"] >= 1
    assert sum(found["stage_share"].values()) == pytest.approx(1, abs=0.01)
    assert len(found["rss_mb_by_epoch"]) == 20
    assert set(found["first_batch_ms"]) == {"start", "middle", "end"}
