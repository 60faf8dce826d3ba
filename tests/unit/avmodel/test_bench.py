"""`avkit bench step`: what is counted, not how fast it is."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from avcli.bench import FAMILY_COLUMNS, FUSION_COLUMNS, STEP_COLUMNS, step_table
from avmanifest.errors import ConfigError
from avmodel.bench import (
    RELEASED_GFLOP,
    ROWS,
    StepBench,
    TrainingSteps,
    bench_fusion,
    bench_step,
    measure_rows,
    paper_model,
)
from avmodel.configs.avsiam import AVSiamConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.configs.run import RunConfig
from avmodel.costs import count_flop, state_memory_mb
from avmodel.distributed import World
from avmodel.models.deepavfusion import DeepAVFusion
from tests.forks import avkit, call
from tests.runs import TINY, TINY_AVSIAM


@pytest.mark.slow
def test_every_fusion_has_a_row_for_every_batch_size() -> None:
    rows = list(bench_step(StepBench(device="cpu", model=TINY, batches=(2,), rounds=1)))
    rows += bench_step(StepBench(device="cpu", model=TINY, batches=(3,), rounds=1, rows=("token",)))
    assert [(row["fusion"], row["batch"]) for row in rows] == [*((name, 2) for name in ROWS), ("token", 3)]
    for row in rows:
        assert row["samples_per_s"] > 0
        assert row["peak_memory_mb"] > 0
        flop = count_flop(replace(TINY, **ROWS[row["fusion"]]))
        assert row["gflop_per_sample"] == flop / 1e9
        assert row["flops_share"] == pytest.approx(row["samples_per_s"] * flop / (row["matmul_tflops"] * 1e12))
        assert (row["device"], row["precision"], row["compile"]) == ("cpu", "float32", "none")
    none = next(row for row in rows if row["fusion"] == "none")
    assert (none["speed_of_none"], none["memory_of_none"]) == (1, 1)


@pytest.mark.slow
def test_operations_of_the_papers_models() -> None:
    shallow = DeepAVFusionConfig(size="768x2x12", decoder_depth=1)
    flop = {name: count_flop(replace(shallow, **changes)) for name, changes in ROWS.items()}
    assert flop["none"] < flop["token"] == flop["dense"] < flop["factorized"] < flop["dense-pairs"]
    # What the hours in avmodel.runs are estimated from.
    assert count_flop(DeepAVFusionConfig()) / 1e9 == pytest.approx(110.8, abs=0.1)
    audioset = DeepAVFusionConfig(fusion_attn_ratio=1.0, fusion_mlp_ratio=4.0)
    assert count_flop(audioset) / 1e9 == pytest.approx(119.9, abs=0.1)


@pytest.mark.parametrize(
    ("row", "released", "unread"),
    [("none", 25.81, 0), ("token", 33.27, 1), ("factorized", 37.77, 1), ("dense-pairs", 168.15, 1)],
)
def test_operations_of_encoding_are_the_released_modules_without_what_nobody_reads(
    row: str, released: float, unread: int
) -> None:
    config = replace(DeepAVFusionConfig(), **ROWS[row], **({} if "pairs" in row else {"fusion_impl": "pairs"}))
    flop = count_flop(config, encode=True)
    # In both branches of 12 layers the outputs of 32 fusion tokens are thrown away: their queries, their attention over
    # 228 and 128 tokens, their projection and their MLP.
    thrown_away = sum(32 * (10 * 768**2 + 2 * 768 * tokens) for tokens in (228, 128)) * 12 / 1e9
    assert flop / 2e9 == pytest.approx(released - unread * thrown_away, rel=0.005)


@pytest.mark.slow
def test_encoding_has_rows_too() -> None:
    rows = list(bench_step(StepBench(device="cpu", model=TINY, batches=(2,), rounds=1, encode=True)))
    assert [row["fusion"] for row in rows] == list(ROWS)
    for row in rows:
        assert row["samples_per_s"] > 0
        assert row["gflop_per_sample"] == count_flop(replace(TINY, **ROWS[row["fusion"]]), encode=True) / 1e9


def by_hand(config: DeepAVFusionConfig, row: str) -> int:
    """Operations of encoding a whole sample, a multiply-add as two: every matrix product written out."""
    d, depth, _ = config.vit
    p, (h, w), (bins, steps) = config.patch_size, config.image_size, config.audio_size
    n, m = (h // p) * (w // p), (bins // p) * (steps // p)
    tokens, image_summaries, audio_summaries = config.num_tokens
    every = tokens + image_summaries + audio_summaries
    k = round(d * config.fusion_attn_ratio)  # width of queries and keys

    def attention(queries: int, keys: int, key_width: int, value_width: int) -> int:
        return queries * keys * (key_width + value_width)

    def block(x: int, context: int) -> int:
        return x * d * d * (2 + 8) + (x + context) * d * 2 * d + attention(x, x + context, d, d)

    def summaries(count: int, x: int) -> int:
        return count * d * d * 2 + x * d * 2 * d + attention(count, x, d, d)

    def pair_halves(count: int) -> int:  # keys and values of one side's summaries, and the attention to them
        return count * d * (k + d) + attention(tokens, count, k, d)

    mlp = 2 * every * d * round(d * config.fusion_mlp_ratio)
    fusion = {
        "none": 0,
        "factorized": summaries(image_summaries, n) + summaries(audio_summaries, m)
        + tokens * d * (k + d) + pair_halves(image_summaries) + pair_halves(audio_summaries) + mlp,
        "dense": every * d * 2 * k + (n + m) * d * 2 * k + attention(every, n + m, k, k) + mlp,
        "dense-pairs": every * d * 2 * k + n * m * 2 * d * 2 * k + attention(every, n * m, k, k) + mlp,
        "token": every * d * 2 * k + (n + m) * d * 2 * k + attention(every, n + m, k, k) + mlp,
    }[row]  # fmt: skip
    context = 0 if row == "none" else every
    patches = n * d * 3 * p * p + m * d * p * p
    return 2 * (patches + depth * (block(n, context) + block(m, context) + fusion))


@pytest.mark.parametrize("row", ROWS)
def test_operations_of_encoding_are_those_counted_by_hand(row: str) -> None:
    wider = {"size": "96x3x4", "fusion_attn_ratio": 0.5, "fusion_mlp_ratio": 2.0}
    for config in (TINY, replace(TINY, **wider), DeepAVFusionConfig(size="768x2x12")):
        model = replace(config, **ROWS[row])
        assert count_flop(model, encode=True) == by_hand(model, row)


@pytest.mark.slow
def test_table_6_has_every_fusion_beside_the_papers_figures() -> None:
    rows = {row["fusion"]: row for row in bench_fusion(StepBench(device="cpu", model=TINY, rounds=3))}
    assert list(rows) == list(ROWS)
    for name, row in rows.items():
        model = replace(TINY, **ROWS[name])
        assert row["batch"] == 2
        assert row["gflop_per_sample"] == by_hand(model, name) / 1e9
        assert row["ms_per_sample"] == pytest.approx(sorted(row["ms_per_sample_by_round"])[1])
        assert row["ms_per_sample"] == pytest.approx(1e3 / row["samples_per_s"])
        assert row["cpu_ms_per_sample"] > 0
        assert row["weights_memory_mb"] == pytest.approx(4 * total_weights(DeepAVFusion(model)) / 1e6)
        assert row["extra_memory_mb"] == pytest.approx(row["peak_memory_mb"] - row["weights_memory_mb"])
        assert row["released_gflop"] is None  # of another size than the released one
    ratios = {name: (row["paper_speed_of_none"], row["paper_memory_of_none"]) for name, row in rows.items()}
    assert ratios["none"] == (1, 1)
    assert ratios["factorized"] == (pytest.approx(0.883, abs=5e-4), pytest.approx(1.272, abs=5e-4))
    assert ratios["dense-pairs"] == (pytest.approx(0.297, abs=5e-4), pytest.approx(3.068, abs=5e-4))
    assert ratios["dense"] == ratios["token"] == (None, None)
    *_, last = step_table(rows.values(), FUSION_COLUMNS)
    assert last.split()[0] == "none"
    token = next(line for line in step_table(rows.values(), FUSION_COLUMNS) if line.startswith("token"))
    assert token.split().count("-") == 3


def total_weights(model: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in model.state_dict().values())


def test_the_released_figures_are_of_the_papers_model() -> None:
    assert paper_model("none") == replace(DeepAVFusionConfig(), fusion_layers="none")
    for name, released in RELEASED_GFLOP.items():
        ours = by_hand(paper_model(name), name) / 1e9
        assert ours <= released * 1.001
        assert ours > 0.8 * released


def test_a_linear_layers_operations_are_counted_as_two_each() -> None:
    """An empty model's decoders: doubling their width quadruples their matrix products, nothing else."""
    small, big = (count_flop(replace(TINY, decoder_depth=depth)) for depth in (1, 3))
    dim, tokens = TINY.decoder_embed_dim, (8 + 4, 8 + 24)
    # A block: 12 d^2 weights on each token, n^2 d twice for attention; forward once, backward twice.
    linear = sum(12 * dim**2 * n for n in tokens)
    attention = sum(2 * n**2 * dim for n in tokens)
    assert big - small == pytest.approx(2 * 2 * 3 * (linear + attention), rel=0.05)


def test_state_is_weights_gradients_and_two_moments() -> None:
    model = DeepAVFusion(TINY)
    trained = sum(p.numel() for p in model.parameters())
    fixed = sum(b.numel() for b in model.buffers())
    assert state_memory_mb(TINY) == pytest.approx((16 * trained + 4 * fixed) / 1e6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"rows": ("dens",)},
            "unknown --fusion 'dens'; did you mean dense? known: factorized, dense, dense-pairs, token, none",
        ),
        (
            {"families": ("avsima",)},
            "unknown --family 'avsima'; did you mean avsiam? known: all, deepavfusion, avsiam, avsep",
        ),
        ({"families": ("avsiam",), "model": TINY}, "give families a size"),
        ({"batches": (0,)}, "--batch=0"),
        ({"rounds": 0}, "rounds=0"),
    ],
)
def test_impossible_options(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        StepBench(**options)


def test_an_unknown_size_or_device_is_a_config_error() -> None:
    for options in ({"size": "bse"}, {"device": "gpu"}, {"precision": "bfloat16", "device": "cpu"}):
        with pytest.raises(ConfigError):
            next(bench_step(StepBench(**options)))


@pytest.mark.slow
def test_the_command_prints_an_object_a_row(tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ["--size", "32x2x4", "--batch", "1", "--rounds", "1", "--fusion", "token", "--device", "cpu", "--json"]
    assert call(avkit, "bench", "step", *words, log=log) == 0, log.read_text()
    (row,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert (row["fusion"], row["size"], row["batch"]) == ("token", "32x2x4", 1)
    assert row.keys() >= {"samples_per_s", "peak_memory_mb", "flops_share"}


def test_the_table_has_a_line_a_row_and_says_what_did_not_fit() -> None:
    figures = dict.fromkeys(STEP_COLUMNS, 0.5)
    row = {
        "fusion": "token",
        "batch": 64,
        "size": "base",
        "precision": "bfloat16",
        "compile": "blocks",
        "device": "H200",
    }
    row |= {"threads": 2, "matmul_tflops": 790.0, "ms_per_sample_by_round": [1.0, 2.0, 3.0]}
    head, names, fitting, other = step_table([row | figures, row | dict.fromkeys(figures)])
    assert (
        head
        == "base, bfloat16, compiled: blocks on H200, 2 threads; matrix products: 790.000 TFLOP/s; medians of 3 rounds"
    )
    assert names.split() == ["fusion", "batch", *STEP_COLUMNS]
    assert fitting.split() == ["token", "64", *["0.500"] * len(figures)]
    assert other.count("out of memory") == len(figures)


@pytest.mark.slow
def test_families_are_compared_in_rows_of_their_own() -> None:
    changes = StepBench(families=("avsiam", "avsep", "avsiam-nomask")).models("32x2x4")
    small = {
        name: getattr(TINY_AVSIAM, name) for name in ("image_size", "audio_size", "decoder_depth", "decoder_embed_dim")
    }
    runs = {
        name: RunConfig(name=name, model=replace(model, **small), batch_size=5, device_batch_size=5, device="cpu")
        for name, model in changes.items()
    }
    rows = list(measure_rows(runs, World(0, 1, torch.device("cpu")), 1, 1, "family", TrainingSteps))
    assert [row["family"] for row in rows] == ["avsiam", "avsep", "avsiam-nomask"]
    one, two, unmasked = rows
    assert all(row["samples_per_s"] > 0 and row["peak_memory_mb"] > 0 for row in rows)
    assert (one["memory_of_avsiam"], unmasked["speed_of_nomask"]) == (1, 1)
    assert two["parameters_m"] > one["parameters_m"]
    # Weights, gradients and two moments, four bytes each.
    saved = two["state_memory_mb"] - one["state_memory_mb"]
    assert saved == pytest.approx(16 * (two["parameters_m"] - one["parameters_m"]))
    assert two["gflop_per_sample"] == pytest.approx(one["gflop_per_sample"], rel=1e-6)
    head, names, first, *_ = step_table(rows)
    assert "32x2x4" in head
    assert names.split() == ["family", "batch", *FAMILY_COLUMNS]
    assert first.split()[:2] == ["avsiam", "5"]


def test_masking_saves_the_operations_that_the_papers_count() -> None:
    """Multiply-adds of AVSiam-Base's encoder, forward: 65.7 G unmasked, 48.2, 31.5, 15.4 with 25, 50, 75 % hidden."""
    shallow = {"size": "768x2x12", "reconstruction_weight": 0.0}
    flop = {r: count_flop(AVSiamConfig(mask_ratios=(r,), **shallow)) for r in (0.0, 0.25, 0.5, 0.75)}
    for ratio, giga in ((0.25, 48.2), (0.5, 31.5), (0.75, 15.4)):
        assert flop[ratio] / flop[0.0] == pytest.approx(giga / 65.7, abs=0.02)
    assert flop[0.0] / 2 / 3 / 1e9 == pytest.approx(65.7 / 6, rel=0.02)


@pytest.mark.gpu
def test_on_a_gpu_memory_and_rates_are_the_gpus() -> None:
    if not torch.cuda.is_available() and os.environ.get("AVKIT_REQUIRE_GPU") != "1":
        pytest.skip("no CUDA device")
    rows = list(bench_step(StepBench(device="cuda", model=TINY, batches=(8,), rounds=1, steps=1, compile="none")))
    assert all(row["precision"] == "bfloat16" and row["device"] == torch.cuda.get_device_name() for row in rows)
    assert all(row["peak_memory_mb"] > row["state_memory_mb"] for row in rows)
