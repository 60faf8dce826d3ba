"""What small models learn from a thousand clips: the measurements of docs/decisions/learning-on-little.md.

    python -m benchmarks.learning_on_little finetune --out little --seeds 0,1,2
    python -m benchmarks.learning_on_little pretrain --out little --seeds 0,1,2 --set digits
    python -m benchmarks.learning_on_little pretrain --out little --seeds 0,1,2 --set synth
    python -m benchmarks.learning_on_little variants --out little --seeds 0,1,2 --set synth
    python -m benchmarks.learning_on_little contrast --out little --seeds 0,1,2 --set digits
    python -m benchmarks.learning_on_little contrast --out little --seeds 0,1,2 --set synth-24 --runs AVSiam
    python -m benchmarks.learning_on_little layers --out little --seeds 0 --set synth-24
    python -m benchmarks.learning_on_little sound --out little --seeds 0 --set synth-24

`finetune` trains classifiers of 1,197 handwritten digits from random weights and tests them on 600: a plain ViT, and
avkit's model by the preset `small`, with each setting of the released recipe in turn, and with all of them. `pretrain`
runs the preset `demo`, and with other targets, and probes image, audio and fusion features beside those of random
weights. `variants` runs CrossMAE's six combinations of losses in the demo's size, probes them and retrieves; `contrast`
trains AVSiam by the contrastive loss alone (the preset `avsiam-small`), and CAV-MAE by contrast, and gives the loss at
points of the run, and probes; `layers` probes the AVSiam of `contrast`, which has to be there, after each layer;
`sound` classifies log-mels themselves. A result is a line of OUT/results.jsonl as soon as it is there, and is not
computed again. Run it from the repository.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from avdata.load import LoaderConfig
from avdata.prepare.config import SynthConfig
from avdata.prepare.sources.synth import CLASSES, render_frame, render_mix, synth_clip
from avdata.waveform import SAMPLE_RATE
from avmanifest.settings import override
from avmodel.checkpoint import load_model, save_checkpoint
from avmodel.configs.run import RunConfig
from avmodel.distributed import World
from avmodel.evaluate.data import make_loader, one_view, open_splits, ordered_loader, train_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import label_matrix
from avmodel.evaluate.finetune.config import small as small_finetuning
from avmodel.evaluate.finetune.training import predict, trained
from avmodel.evaluate.linear_probe.config import small as small_probe
from avmodel.evaluate.loaded import LoadedModel
from avmodel.evaluate.run import evaluate
from avmodel.evaluate.tasks import task_config
from avmodel.inputs import normalize_images
from avmodel.models import build_model
from avmodel.optim import make_optimizer, set_lr
from avmodel.presets import run_config
from avmodel.presets.data import SMALL_SIZE
from avmodel.rundir import CHECKPOINTS
from avmodel.train import pretrain
from tests.digits import SECONDS, draw_digits
from tests.shards import draw_dataset

HERE = World(0, 1, torch.device("cpu"))
Scores = Mapping[str, float]  # percent of the test clips, by row

SYNTH = SynthConfig(
    num_clips=1500, num_classes=8, max_objects=1, max_silent=0, seconds=3.0, width=128, height=96, fps=10
)
SYNTH_24 = replace(SYNTH, num_clips=2400, num_classes=24)  # the clips of `make demo`
TRAIN_SHARE = 0.8
IMAGES = ("data.mode=image", "data.num_workers=0", "epochs=15", "random_weights=false", "device=cpu")
RELEASED = {
    "rate 3e-4 per 256": "optim.lr=7.5e-5",
    "layer decay 0.75": "optim.layer_decay=0.75",
    "mixup 1": "mixup=1",
    "stochastic depth 0.2": "drop_path=0.2",
    "flip 0.5": "flip_probability=0.5",
    "smoothing 0.1": "smoothing=0.1",
    "warm-up 0.2": "optim.warmup=0.2",
}
# By data.fit=short-side-crop, which `small` has, frames are taken whole: crops, with it, are of data.fit=crop.
CROPS = ("min_area=0.5", "data.fit=crop")
FINETUNINGS: Mapping[str, Sequence[str]] = {
    "small": (),
    **{f"small, {name}": (setting,) for name, setting in RELEASED.items()},
    "small, crops of 0.5 or more": CROPS,
    "small, all of these": (*RELEASED.values(), *CROPS),
}
PRETRAININGS: Mapping[str, Sequence[str]] = {
    "demo": (),
    "demo, all patches normalized": ("model.normalize_audio_targets=none",),
    "demo, no patch normalized": ("model.normalize_targets=false",),
}

# In the size, on the inputs and by the optimizer of the preset `demo`; log-mels as avkit's `paper` profile scales them.
SCALE: Mapping[str, Any] = {"mel_mean": -4.13, "mel_std": 2.95}
VARIANTS = ("crossmae", "cl-cross-emb", "cl-cross-cdt", "cl-self-mae", "cl-av", "self-mae")
CONTRAST_ALONE = ("model.contrast_weight=1", "model.reconstruction_weight=0")
ONE_OF_16 = ("model.image_mask_ratio=0.0625", "model.audio_mask_ratio=0.0625")  # CAV-MAE hides no less
# Of each, the run that is changed, and its changes.
CONTRASTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "AVSiam": ("avsiam-small", ()),
    "AVSiam, rate 1e-3": ("avsiam-small", ("optim.lr=1e-3",)),
    "AVSiam, temperature 0.2": ("avsiam-small", ("model.temperature=0.2",)),
    "AVSiam, patches of 8": ("avsiam-small", ("model.patch_size=8",)),
    "AVSiam, AudioSet's scale of Kaldi log-mels": ("avsiam-small", ("model.mel_mean=-5.081", "model.mel_std=4.4849")),
    "CAV-MAE": ("cavmae", ("model.contrast_weight=1",)),
    "CAV-MAE, contrast alone": ("cavmae", (*CONTRAST_ALONE, *ONE_OF_16)),
    "CAV-MAE, contrast alone, three of four patches hidden": ("cavmae", CONTRAST_ALONE),
}
CONTRAST_STEPS = (100, 300, 600, 1200, 2400)
QUIET = ("probe_every=none", "pictures_every=none", "data.num_workers=0", "device=cpu")


class PlainViT(nn.Module):
    """torch's own transformer on patches of 16 pixels: learned positions, mean of the tokens, one linear head."""

    def __init__(self, width: int, depth: int, heads: int, *, side: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 16, 16)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (side // 16) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        tokens = self.embed(image).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def untrained(seed: int) -> LoadedModel:
    """The model of the preset `demo` with random weights."""
    run = run_config("demo")
    torch.manual_seed(seed)
    model = build_model(run.model).eval()
    origin = {"path": None, "sha256": f"random-{seed}", "family": "deepavfusion"}
    return LoadedModel(model=model, origin=origin, folder=Path(), profile="paper", window_s=run.data.window_s)


def plain_vit(data: Path, _: Path, seed: int) -> Scores:
    """The plain ViT on the batches of fine-tuning, by its optimizer and rates."""
    config, loaded = override(small_finetuning(), IMAGES), untrained(seed)
    train, test = open_splits(config.data, data, None)
    view = train_view(config.data, loaded, max_gain_db=0, min_area=1, flip_probability=0)
    loader = make_loader(LoaderConfig(batch_size=config.batch_size, seed=seed), config.data, train, view, HERE)
    torch.manual_seed(seed)
    (side, _side), classes = loaded.model.config.image_size, len(train.dataset.classes)
    model = PlainViT(*loaded.model.config.vit, side=side, classes=classes)
    optimizer = make_optimizer(model, config.optim)
    steps, done = config.epochs * len(loader), 0
    for _epoch in range(config.epochs):
        for batch in loader:
            set_lr(optimizer, config.optim, peak_lr=config.optim.peak_lr(config.batch_size), done=done / steps)
            torch.autograd.backward(F.cross_entropy(model(normalize_images(batch.images)), batch.labels.float()))
            optimizer.step()
            optimizer.zero_grad()
            done += 1
    model.eval()
    right = []
    for batch in ordered_loader(config.data, test, one_view(config.data, loaded), HERE, batch_size=100, seed=0):
        with torch.no_grad():
            found = model(normalize_images(batch.images)).argmax(dim=1)
        right.append((found == batch.labels.int().argmax(dim=1))[batch.valid])
    return {"all": 100 * float(torch.cat(right).float().mean())}


def finetuned(data: Path, out: Path, seed: int, settings: Sequence[str]) -> Scores:
    """Avkit's model, fine-tuned from random weights."""
    config, loaded = override(small_finetuning(), [*IMAGES, *settings]), untrained(seed)
    train, test = open_splits(config.data, data, None)
    run = Evaluation(loaded=loaded, test=data, train=None, out=out, world=HERE)
    classifier = trained(config, run, train, test, seed, out)
    labels = label_matrix(test.dataset).int().argmax(dim=1)
    logits = predict(config, classifier, run, test, one_view(config.data, loaded))
    return {row: 100 * float((x.argmax(dim=1) == labels).float().mean()) for row, x in logits.items()}


def pretrained(data: Path, out: Path, seed: int, settings: Sequence[str]) -> Scores:
    """Linear probes of a pretrained model, and of random weights."""
    run = override(run_config("demo"), [f"seed={seed}", *QUIET, *settings])
    pretrain(run, data, out, resume=(out / "config.json").exists())
    return probed(data, out, seed)


def probed(data: Path, out: Path, seed: int) -> Scores:
    """Linear probes of a run, and of random weights."""
    config = small_probe()
    config = replace(config, seeds=(seed,), device="cpu", data=replace(config.data, num_workers=0))
    result, _ = evaluate("linear-probe", config, out, data)
    rows = {**result.scores, **{row: x for row, x in result.baselines.items() if row.startswith("random")}}
    return {row: found["accuracy"].mean for row, found in rows.items()}


def small_run(name: str, steps: int, seed: int, **changes: Any) -> RunConfig:
    """A published run in the demo's size, its losses kept."""
    run, demo = run_config(name), run_config("demo")
    model = replace(run.model, **SMALL_SIZE, **SCALE, **changes)
    return override(replace(demo, name=run.name, model=model, steps=steps, seed=seed), QUIET)


def variant(data: Path, out: Path, seed: int, name: str) -> Scores:
    """Linear probes of one of CrossMAE's variants, and the share of clips whose partner is among the first ten."""
    decoders = {"feature_decoder_dim": 48, "feature_decoder_depth": 1, "feature_decoder_num_heads": 4}
    pretrain(small_run(name, 1200, seed, **decoders), data, out, resume=(out / "config.json").exists())
    scores = probed(data, out, seed)
    result, _ = evaluate(
        "retrieval", override(task_config("retrieval"), ["device=cpu", "random_weights=false"]), out, data
    )
    return {**scores, **{f"{row}, R@10": found["r@10"].mean for row, found in result.scores.items()}}


def contrast_run(name: str, seed: int) -> RunConfig:
    """The run of a row of CONTRASTS."""
    base, settings = CONTRASTS[name]
    if base == "avsiam-small":
        run = override(run_config(base), [f"seed={seed}", *QUIET])
    else:
        run = small_run(base, CONTRAST_STEPS[-1], seed)
    return override(run, settings)


def contrasted(data: Path, out: Path, seed: int, name: str) -> Scores:
    """Contrastive loss over the fifty steps before some of them, and linear probes."""
    pretrain(contrast_run(name, seed), data, out, resume=(out / "config.json").exists())
    losses: dict[int, float] = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        if "loss_contrast" in line:
            losses[line["step"]] = line["loss_contrast"]
    at = {
        f"loss at {last}": mean(loss for step, loss in losses.items() if last - 50 < step <= last)
        for last in CONTRAST_STEPS
    }
    return {**at, **probed(data, out, seed)}


def layer_probed(data: Path, out: Path, seed: int, layer: int) -> Scores:
    """Linear probes after a layer of the AVSiam of `contrast`, and after the same layer of random weights."""
    trained_at = out.with_name(run_folder("contrast", data.name, "AVSiam", seed))
    trained_model = load_model(trained_at / CHECKPOINTS)[0]
    torch.manual_seed(seed)
    models = {"": trained_model, "random weights, ": build_model(trained_model.config)}
    scores = {}
    for prefix, model in models.items():
        for block in model.get_submodule("encoder.blocks")[layer:]:
            for last in (block.attn.proj, block.mlp.fc2):  # a block that adds nothing
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
        place, notes = out / (prefix or "trained"), {"profile": "paper", "window_s": str(SECONDS), "fit": "crop"}
        save_checkpoint(place / CHECKPOINTS, 1, model, model.config, {"step": 1}, notes=notes)
        found = probed(data, place, seed)
        scores |= {prefix + row: found[row] for row in ("image", "audio")}
    return scores


def heard(data: Path, _: Path, seed: int) -> Scores:
    """What sound gives without a model: its window's log-mel, whole or as mean and deviation of each mel bin."""
    config, loaded = replace(small_probe().data, num_workers=0), untrained(seed)
    parts = []
    for part in open_splits(config, data, None):
        batches = list(ordered_loader(config, part, one_view(config, loaded), HERE, batch_size=100, seed=0))
        mels = torch.cat([batch.log_mel[batch.valid] for batch in batches]).float()
        truth = torch.cat([batch.labels[batch.valid] for batch in batches]).int().argmax(dim=1)
        parts.append((mels.numpy(), truth.numpy()))
    (seen, seen_truth), (asked, asked_truth) = parts
    trees = ExtraTreesClassifier(500, random_state=seed).fit(bands(seen), seen_truth)
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(bands(seen), seen_truth)
    whole = make_pipeline(StandardScaler(), PCA(200, random_state=seed), LogisticRegression(C=0.01, max_iter=1000))
    whole.fit(seen.reshape(len(seen), -1), seen_truth)
    found = {
        "trees on the bins": trees.predict(bands(asked)),
        "regression on the bins": linear.predict(bands(asked)),
        "regression on the log-mel": whole.predict(asked.reshape(len(asked), -1)),
    }
    return {row: 100 * float((predicted == asked_truth).mean()) for row, predicted in found.items()}


def bands(mels: Float[np.ndarray, "n mel t"]) -> Float[np.ndarray, "n d"]:
    """Mean, deviation and largest value of each mel bin."""
    return np.concatenate([mels.mean(axis=2), mels.std(axis=2), mels.max(axis=2)], axis=1)


def draw_synth(root: Path, config: SynthConfig) -> Path:
    """Clips of `avkit prepare synth`, without the detour of a video: four of five to train on, the rest to test."""
    classes = [kind.name for kind in CLASSES[: config.num_classes]]
    num_train = round(TRAIN_SHARE * config.num_clips)

    def picture(clip: int, frame: int) -> UInt8[np.ndarray, "h w 3"]:
        return render_frame(config, synth_clip(config, clip), (frame + 0.5) * config.seconds / 2)

    def sound(clip: int, seconds: float) -> Float[np.ndarray, " n"]:
        mix = render_mix(config, synth_clip(config, clip), SAMPLE_RATE)
        return mix[: round(seconds * SAMPLE_RATE)].astype(np.float32)

    for split, first, count in (("train", 0, num_train), ("test", num_train, config.num_clips - num_train)):
        draw_dataset(
            root, count, 400, split=split, first=first, classes=classes, picture=picture, sound=sound,
            labels=lambda clip: list(synth_clip(config, clip).labels), seconds=config.seconds, num_frames=2, flac=False,
        )  # fmt: skip
    return root


SETS: Mapping[str, Callable[[Path], Path]] = {
    "digits": draw_digits,
    "digits, eight frames": lambda root: draw_digits(root, num_frames=8),
    "synth": lambda root: draw_synth(root, SYNTH),
    "synth-24": lambda root: draw_synth(root, SYNTH_24),
}


def runs_of(what: str) -> Iterator[tuple[str, Callable[[Path, Path, int], Scores]]]:
    """The rows of a table: their names, and what computes one seed from the data and the folder of the run."""
    if what == "finetune":
        yield "plain ViT", plain_vit
        for name, settings in FINETUNINGS.items():
            yield name, lambda data, out, seed, settings=settings: finetuned(data, out, seed, settings)  # type: ignore[misc]
    elif what == "variants":
        for name in VARIANTS:
            yield name, lambda data, out, seed, name=name: variant(data, out, seed, name)  # type: ignore[misc]
    elif what == "contrast":
        for name in CONTRASTS:
            yield name, lambda data, out, seed, name=name: contrasted(data, out, seed, name)  # type: ignore[misc]
    elif what == "layers":
        for layer in (1, 2, 3):
            yield f"layer {layer}", lambda data, out, seed, layer=layer: layer_probed(data, out, seed, layer)  # type: ignore[misc]
    elif what == "sound":
        yield "log-mel", heard
    else:
        for name, settings in PRETRAININGS.items():
            yield name, lambda data, out, seed, settings=settings: pretrained(data, out, seed, settings)  # type: ignore[misc]


def run_folder(what: str, data: str, name: str, seed: int) -> str:
    """The name of a run's folder."""
    return f"{what}-{data}-{name}-{seed}".replace(" ", "_")


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: for each run and row of scores the mean, its standard error and the number of seeds."""
    found: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        for row, score in line["scores"].items():
            found[line["run"], row].append(score)
    rows = ["| run | row | percent | standard error | seeds |", "|---|---|---|---|---|"]
    for (run, row), scores in found.items():
        digits = 2 if row.startswith("loss") else 1
        error = f"{stdev(scores) / len(scores) ** 0.5:.{digits}f}" if len(scores) > 1 else ""
        rows.append(f"| {run} | {row} | {mean(scores):.{digits}f} | {error} | {len(scores)} |")
    return "\n".join(rows)


def main() -> None:
    """Compute what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("finetune", "pretrain", "variants", "contrast", "layers", "sound"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(SETS), default="digits")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--runs", help="only these, separated by ';'")
    given = parser.parse_args()
    torch.set_num_threads(1)
    data, results = given.out / given.set, given.out / "results.jsonl"
    if not (data / "dataset.json").exists():
        SETS[given.set](data)
    wanted = None if given.runs is None else given.runs.split(";")
    lines = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for name, compute in runs_of(given.what):
        for seed in map(int, given.seeds.split(",")):
            mark = {"what": given.what, "set": given.set, "run": name, "seed": seed}
            if (wanted is not None and name not in wanted) or any(line.items() >= mark.items() for line in lines):
                continue
            scores = compute(data, given.out / run_folder(given.what, given.set, name, seed), seed)
            lines.append(mark | {"scores": scores})
            with results.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    print(table([line for line in lines if (line["what"], line["set"]) == (given.what, given.set)]))


if __name__ == "__main__":
    main()
