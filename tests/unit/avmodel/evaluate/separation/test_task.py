"""Separation from training to result: resumed, kept, heard, refused."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from avdata.profiles import PROFILES
from avmanifest.errors import AvkitError, ConfigError
from avmodel.checkpoint import save_checkpoint
from avmodel.configs.crossmae import CrossMAEConfig
from avmodel.configs.optim import OptimConfig
from avmodel.evaluate.data import open_splits
from avmodel.evaluate.decoder import DecoderConfig, segmentation_decoder
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.loading import load_pretrained
from avmodel.evaluate.predictor import Predictor, save_predictor
from avmodel.evaluate.separation.config import SeparationConfig
from avmodel.evaluate.separation.examples import example_of
from avmodel.evaluate.separation.mixtures import Mixture, write_mixtures
from avmodel.evaluate.separation.separator import Separator, load_separator, separate, trained_separator
from avmodel.evaluate.separation.task import Classical, MixtureBatch, separation
from avmodel.evaluate.tasks import task_config
from avmodel.metrics import METRICS, read_lines
from avmodel.models import build_model
from avmodel.rundir import CHECKPOINTS
from tests.evaluating import DATA, draw_splits, evaluation_of, tiny_model
from tests.shards import draw_dataset, sample_key
from tests.unit.avmodel.evaluate.test_families import NOTES, SHAPE

CONFIG = SeparationConfig(
    data=DATA,
    batch_size=8,
    device_batch_size=4,
    epochs=2,
    optim=OptimConfig(base_lr=0.05, warmup=0.2, ramp=0.0, betas=(0.9, 0.999), layer_decay=0.75),
    device="cpu",
    random_weights=False,
    num_mixtures=3,
    oracles=False,
    nmf=False,
    rpca=False,
    examples=1,
)


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with waveforms. Not to be changed."""
    return draw_splits(tmp_path_factory.mktemp("sounding") / "set", flac=True)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_lines(folder / METRICS)]


def train(config: SeparationConfig, run: Evaluation, folder: Path) -> Separator:
    split, _ = open_splits(config.data, run.test, None, labeled=False)
    return trained_separator(config, run, split, 0, folder)


@pytest.mark.slow
def test_broken_off_and_taken_up_it_is_the_same_run(tiny_run: Path, sounding: Path, tmp_path: Path) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 5:
            raise Stopped

    run = evaluation_of(tiny_run, sounding, tmp_path)
    straight = train(CONFIG, run, tmp_path / "straight")
    with pytest.raises(Stopped):
        train(CONFIG, replace(run, progress=stop), tmp_path / "broken")
    again = train(CONFIG, run, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "straight")
    assert len(losses(tmp_path / "straight")) == 6
    assert losses(tmp_path / "straight")[0] != losses(tmp_path / "straight")[-1]
    kept = load_separator(str(tmp_path / "straight"))
    assert (kept.target, kept.profile.name, kept.num_samples) == ("irm", "paper", 16_000)
    for name, x in straight.state_dict().items():
        assert torch.equal(x, again.state_dict()[name]), name
        assert torch.equal(x, kept.state_dict()[name]), name
    with pytest.raises(ConfigError, match="sources: 2 -> 3"):
        train(replace(CONFIG, sources=3), run, tmp_path / "broken")
    # What only the test knows may change.
    assert torch.equal(
        train(replace(CONFIG, mixture_seed=3), run, tmp_path / "broken").state_dict()[name], straight.state_dict()[name]
    )


@pytest.mark.slow
def test_a_result_has_baselines_and_a_page_to_listen_to(tiny_run: Path, sounding: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, sounding, tmp_path)
    config = replace(
        CONFIG, epochs=1, num_mixtures=2, random_weights=True, oracles=True, nmf=True, rpca=True, seeds=(0, 1)
    )
    result = separation(config, run)
    assert list(result.scores) == ["separated"]
    assert set(result.scores["separated"]) == {"sdr", "sir", "sar", "sdr_gain"}
    assert len(result.scores["separated"]["sdr"].values) == 2
    assert list(result.baselines) == [
        "random weights", "mixture", "oracle irm", "oracle dominant", "oracle released", "oracle sop",
        "NMF", "NMF, order unknown", "RPCA", "RPCA, order unknown",
    ]  # fmt: skip
    assert result.baselines["oracle irm"]["sdr"].mean > result.baselines["mixture"]["sdr"].mean + 10
    assert result.baselines["mixture"]["sdr_gain"].mean == 0
    assert result.unit == "dB"
    assert result.line().startswith("source separation, 2 sources, irm masks: sdr ")
    assert result.data["test"]["samples"] == 2
    assert any("2 mixtures of different classes drawn by seed 0" in note for note in result.notes)
    rows = result.extra["mixtures"]
    assert np.mean([row["sdr"] for row in rows]) == pytest.approx(result.scores["separated"]["sdr"].mean)
    listed = json.loads((run.out / "mixtures.json").read_text())["mixtures"]
    assert [row["keys"] for row in rows] == [row["keys"] for row in listed]
    page = (run.out / "examples.html").read_text()
    assert page.count("data:audio/wav") == 2 * 5  # the best and the worst: mixture, two answers, two truths
    assert "separated" in page


def test_classical_parts_are_found_once_and_their_best_order_scores_most() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(3, 2, 4_000, generator=generator)
    heard = MixtureBatch(torch.zeros(3, 2, 3, 8, 8), sources)
    asked = []

    def swapped(mixture: torch.Tensor) -> torch.Tensor:
        asked.append(mixture)
        row = int((sources.sum(dim=1) - mixture).abs().sum(dim=1).argmin())
        return sources[row].flip(0) if row else sources[row]

    method = Classical(swapped)
    best, found = method.in_best_order(heard), method.as_found(heard)
    assert len(asked) == 3
    assert torch.equal(best.estimates, sources)
    assert torch.equal(found.estimates[0], sources[0])
    assert torch.equal(found.estimates[1:], sources[1:].flip(1))
    method.as_found(MixtureBatch(heard.images, sources + 0))
    assert len(asked) == 6


@pytest.mark.slow
def test_a_list_with_kinds_has_a_row_for_each(tiny_run: Path, sounding: Path, tmp_path: Path) -> None:
    keys = [sample_key(24 + row) for row in range(6)]
    pairs = [
        Mixture((keys[0], keys[1]), "Easy"),
        Mixture((keys[2], keys[5]), "Hard"),
        Mixture((keys[3], keys[4]), "Easy"),
    ]
    path = write_mixtures(pairs, tmp_path)
    config = replace(CONFIG, epochs=1, mixtures=str(path), target="sop")
    result = separation(config, evaluation_of(tiny_run, sounding, tmp_path))
    assert list(result.scores) == ["separated", "separated, Easy", "separated, Hard"]
    assert list(result.baselines) == ["mixture", "mixture, Easy", "mixture, Hard"]
    assert load_separator(tmp_path / "task" / "seed-0").masks.sample_rate == 11_025
    assert any("Sound of Pixels" in note for note in result.notes)
    parts = [result.scores[f"separated, {kind}"]["sdr"].mean for kind in ("Easy", "Hard")]
    assert result.scores["separated"]["sdr"].mean == pytest.approx((2 * parts[0] + parts[1]) / 3)


@pytest.mark.slow
def test_pictures_learn_to_take_their_sound_out(tiny_run: Path, tmp_path: Path) -> None:
    """Three classes, each a color and a band of tones of its own: what is heard alone never says which to take."""
    colors = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230]], np.uint8)

    def picture(sample: int, frame: int) -> np.ndarray:
        return np.broadcast_to(colors[sample % 3], (40, 40, 3)).copy()

    def sound(sample: int, seconds: float) -> np.ndarray:
        chance, times = np.random.default_rng(sample), np.arange(round(seconds * 16_000)) / 16_000
        base = (250, 1000, 3500)[sample % 3] * chance.uniform(0.9, 1.1)
        tones = [np.sin(2 * np.pi * (base * ratio * times + chance.uniform())) for ratio in (1, 1.2, 1.4)]
        return (0.1 * np.sum(tones, axis=0) + chance.normal(0, 1e-3, len(times))).astype(np.float32)

    data = draw_splits(tmp_path / "colors", picture=picture, sound=sound, flac=True)
    config = replace(
        CONFIG, epochs=24, num_mixtures=4, examples=0, drop_path=0.0, optim=replace(CONFIG.optim, base_lr=0.3)
    )
    result = separation(config, evaluation_of(tiny_run, data, tmp_path))
    assert result.scores["separated"]["sdr_gain"].mean > 2
    found = losses(tmp_path / "task" / "seed-0")
    assert found[-1] < 0.8 * found[0]


@pytest.mark.slow
def test_a_family_that_hears_whole_clips_separates_them(tmp_path: Path) -> None:
    few = draw_dataset(tmp_path / "few", 4, seconds=1.5, num_frames=2)
    draw_dataset(few, 3, split="test", first=4, seconds=1.5, num_frames=2)
    config = CrossMAEConfig(size="32x3x4", **SHAPE)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "run" / CHECKPOINTS, 1, build_model(config), config, {"step": 1}, notes=NOTES)
    loaded = load_pretrained(tmp_path / "run", torch.device("cpu"))
    run = replace(evaluation_of(tmp_path / "run", few, tmp_path), loaded=loaded)
    short = replace(CONFIG, epochs=1, num_mixtures=1, sources=3, batch_size=4, examples=0, max_gain_db=3.0, rpca=True)
    result = separation(short, run)
    assert result.view["window"] == "the whole clip"
    assert result.mode == "3 sources, irm masks"
    assert list(result.baselines) == ["mixture"]  # robust principal components are two
    separator = load_separator(run.out / "seed-0")
    assert separator.masks.size == (128, 1024)
    assert np.isfinite(result.scores["separated"]["sdr"].mean)


def test_long_waveforms_are_separated_window_by_window() -> None:
    predictor = Predictor(tiny_model(), "audio", DecoderConfig())
    separator = Separator(predictor, "irm", PROFILES["paper"], 16_000).eval()
    generator = torch.Generator().manual_seed(0)
    waveform, image = torch.randn(40_001, generator=generator), torch.randn(3, 3, 32, 32, generator=generator)
    found = separate(separator, image, waveform)
    assert found.shape == (3, 40_001)
    one = separate(separator, image, waveform[:16_000])
    assert one.shape == (3, 16_000)
    assert not torch.allclose(one[0], one[1])
    torch.testing.assert_close(one, separate(separator, image, waveform[:16_000]))
    with pytest.raises(ConfigError, match="a waveform of 15999 samples"):
        separate(separator, image, waveform[:15_999])


def test_what_cannot_be_mixed_is_refused(tiny_run: Path, sounding: Path, splits: Path, tmp_path: Path) -> None:
    run = evaluation_of(tiny_run, sounding, tmp_path)
    with pytest.raises(ConfigError, match="sources=5: a device mixes 4 of 24 training clips"):
        train(replace(CONFIG, sources=5), run, tmp_path / "many")
    one = draw_dataset(tmp_path / "one", 1, seconds=1.5)
    draw_dataset(one, 3, split="test", first=1, seconds=1.5)
    with pytest.raises(ConfigError, match="sources=2: a device mixes 1 of 1 training clips"):
        separation(CONFIG, replace(run, test=one))
    with pytest.raises(ConfigError, match="the shards have no audio"):
        train(CONFIG, replace(run, test=splits), tmp_path / "mute")
    with pytest.raises(ConfigError, match=r"windows of 2400 samples|columns=48"):
        train(replace(CONFIG, data=replace(DATA, window_s=0.15)), run, tmp_path / "short")
    with pytest.raises(ConfigError, match=r"data\.profile=kaldi: the checkpoint was trained on 'paper' spectrograms"):
        train(replace(CONFIG, data=replace(DATA, profile="kaldi")), run, tmp_path / "other")
    with pytest.raises(ConfigError, match="15 clips of 3 classes give no mixture of 4"):
        separation(replace(CONFIG, sources=4), run)


@pytest.mark.slow
def test_silent_clips_are_left_out_and_counted(tiny_run: Path, tmp_path: Path) -> None:
    def sound(sample: int, seconds: float) -> np.ndarray:
        size = round(seconds * 16_000)
        loud = np.random.default_rng(sample).normal(0, 0.1, size).astype(np.float32)
        return np.zeros(size, np.float32) if sample >= limit and sample % 3 == 0 else loud

    limit = 24
    data = draw_splits(tmp_path / "some", sound=sound, flac=True)
    result = separation(replace(CONFIG, epochs=1, num_mixtures=12), evaluation_of(tiny_run, data, tmp_path))
    left = len(result.extra["mixtures"])
    assert 0 < left < 12
    assert any(note.startswith(f"{12 - left} mixtures left out: a source is silent") for note in result.notes)
    silent = draw_splits(tmp_path / "none", sound=lambda sample, s: np.zeros(round(s * 16_000), np.float32), flac=True)
    with pytest.raises(ConfigError, match="mixtures has a silent clip"):
        separation(replace(CONFIG, epochs=1), evaluation_of(tiny_run, silent, tmp_path / "none"))


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_kept(
    tiny_run: Path, sounding: Path, tmp_path: Path
) -> None:
    run = evaluation_of(tiny_run, sounding, tmp_path)
    with torch.no_grad():
        run.loaded.model.get_parameter("encoder.audio.blocks.0.norm1.weight")[0] = torch.inf
    with pytest.raises(AvkitError, match=r"step 1: loss .* not finite.*clip-"):
        train(CONFIG, run, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_no_separator_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without a decoder"):
        load_separator(tiny_run)
    save_predictor(tmp_path, Predictor(tiny_model(), "image", segmentation_decoder(1)), 1, {}, {})
    with pytest.raises(ConfigError, match="not a separator"):
        load_separator(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "best"}, "unknown target 'best'"),
        ({"sources": 1}, "sources=1"),
        ({"num_mixtures": 0}, "num_mixtures=0"),
        ({"epochs": 0}, "epochs=0"),
        ({"data": replace(DATA, mode="audio")}, "data.mode=audio"),
        ({"data": replace(DATA, windows=2)}, "one window"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(CONFIG, **changes)  # type: ignore[arg-type]


def test_presets_are_configs() -> None:
    assert task_config("separation").target == "irm"
    assert task_config("separation", "released").target == "released"
    assert task_config("separation", "supplement").target == "dominant"
    assert task_config("separation", "sound-of-pixels").target == "sop"


def test_sounds_are_wav_files_that_do_not_clip() -> None:
    references = torch.tensor([[0.9], [0.9]]) * torch.ones(2, 4000)
    example = example_of(
        keys=["a", "b"],
        names=["<b>dog</b>", "$cat$"],
        scores={"sdr": 1.0, "sir": 2.0, "sar": 3.0},
        frames=[torch.zeros(3, 8, 8, dtype=torch.uint8)] * 2,
        references=references,
        estimates=references.flip(0),
        sample_rate=16_000,
    )
    mixture, rate = soundfile.read(io.BytesIO(example.sounds["mixture"]))
    assert rate == 16_000
    assert mixture.max() == pytest.approx(1.0, abs=1e-3)
    alone, _ = soundfile.read(io.BytesIO(example.sounds["1. <b>dog</b>, true"]))
    assert alone.max() == pytest.approx(0.5, abs=1e-3)
    assert set(example.pictures) == {"log-mels", "1. <b>dog</b>", "2. $cat$"}
