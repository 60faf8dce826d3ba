"""What a small model learns from little data, one change of the recipe at a time.

    python -m benchmarks.learning_on_little finetune --out ablation --seeds 0,1,2

`finetune` trains image classifiers from random weights on 1,197 handwritten digits and tests them on 600: a plain ViT,
and avkit's model under recipes that differ from the plain one in one setting each, up to the released one. Each result
is a line of OUT/results.jsonl as soon as it is there; results that are there are not computed again. The table is
printed at the end.
"""

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from avdata.load import LoaderConfig
from avmanifest.settings import override
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.distributed import World
from avmodel.evaluate.data import Split, make_loader, one_view, open_splits, ordered_loader, train_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import eval_inputs, label_matrix
from avmodel.evaluate.finetune.config import FinetuneConfig
from avmodel.evaluate.finetune.training import predict, trained
from avmodel.evaluate.heads import ALL
from avmodel.evaluate.loaded import LoadedModel
from avmodel.inputs import normalize_images
from avmodel.models import build_model
from avmodel.optim import make_optimizer, set_lr
from tests.digits import draw_digits

HERE = World(0, 1, torch.device("cpu"))
MODEL = DeepAVFusionConfig(
    size="48x3x4", image_size=(64, 64), audio_size=(128, 64), decoder_embed_dim=64, decoder_depth=2,
    decoder_num_heads=4, num_fusion_tokens=8, num_aggr_image_tokens=4, num_aggr_audio_tokens=4,
)  # fmt: skip
WINDOW_S = 1.05
# As one trains a small ViT from scratch: AdamW at 1e-3 with a short warm-up, nothing varied.
PLAIN = (
    "data.mode=image", "epochs=15", "batch_size=64", "device_batch_size=64", "optim.lr=1e-3", "optim.warmup=0.1",
    "optim.layer_decay=1", "drop_path=0", "mixup=0", "smoothing=0", "flip_probability=0", "min_area=1", "max_gain_db=0",
    "data.windows=1", "random_weights=false", "data.num_workers=0", "device=cpu",
)  # fmt: skip
RELEASED_RATE = "optim.lr=7.5e-5"  # 3e-4 per 256 samples, at 64
FINETUNE: Mapping[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "no fusion": ({"fusion_layers": "none"}, ()),
    "early fusion": ({}, ()),
    "released rate (3e-4 per 256)": ({}, (RELEASED_RATE,)),
    "layer decay 0.75": ({}, ("optim.layer_decay=0.75",)),
    "warm-up 0.2": ({}, ("optim.warmup=0.2",)),
    "betas 0.9, 0.999": ({}, ("optim.betas=0.9,0.999",)),
    "stochastic depth 0.2": ({}, ("drop_path=0.2",)),
    "mixup 1": ({}, ("mixup=1",)),
    "label smoothing 0.1": ({}, ("smoothing=0.1",)),
    "flip 0.5": ({}, ("flip_probability=0.5",)),
    "crop of 0.5 or more": ({}, ("min_area=0.5",)),
    "released, all of these": (
        {},
        (
            RELEASED_RATE, "optim.layer_decay=0.75", "optim.warmup=0.2", "optim.betas=0.9,0.999", "drop_path=0.2",
            "mixup=1", "smoothing=0.1", "flip_probability=0.5", "min_area=0.5",
        ),
    ),
}  # fmt: skip


class PlainViT(nn.Module):
    """torch's own transformer on patches of 16 pixels: learned positions, mean of the tokens, one linear head."""

    def __init__(self, width: int, depth: int, heads: int, classes: int, side: int = 64, patch: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (side // patch) ** 2, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        tokens = self.embed(image).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def plain_vit(config: FinetuneConfig, loaded: LoadedModel, train: Split, test: Split, seed: int) -> float:
    """Percent of the test pictures that a plain ViT names after the config's epochs, on the batches of fine-tuning."""
    view = train_view(config.data, loaded, max_gain_db=0, min_area=1, flip_probability=0)
    loader = make_loader(LoaderConfig(batch_size=64, seed=seed), config.data, train, view, HERE)
    torch.manual_seed(seed)
    model = PlainViT(*MODEL.vit, classes=len(train.dataset.classes))
    optimizer = make_optimizer(model, config.optim)
    steps, done = config.epochs * len(loader), 0
    for _ in range(config.epochs):
        for batch in loader:
            set_lr(optimizer, config.optim, peak_lr=config.optim.peak_lr(64), done=done / steps)
            F.cross_entropy(model(normalize_images(batch.images)), batch.labels.float()).backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
    asked = ordered_loader(config.data, test, one_view(config.data, loaded), HERE, batch_size=100, seed=0)
    model.eval()
    with torch.no_grad():
        right = [
            model(eval_inputs(batch, HERE.device).image).argmax(1) == batch.labels.int().argmax(1) for batch in asked
        ]
    return 100 * float(torch.cat(right).float().mean())


def finetuned(
    config: FinetuneConfig, loaded: LoadedModel, data: Path, train: Split, test: Split, seed: int, out: Path
) -> float:
    """Percent of the test pictures that avkit's model names after fine-tuning from random weights."""
    run = Evaluation(loaded=loaded, test=data, train=None, out=out, world=HERE)
    classifier = trained(config, run, train, test, seed, out)
    logits = predict(config, classifier, run, test, one_view(config.data, loaded))
    labels = label_matrix(test.dataset).int().argmax(1)
    return {row: 100 * float((x.argmax(1) == labels).float().mean()) for row, x in logits.items()}


def untrained_model(changes: Mapping[str, Any], seed: int) -> LoadedModel:
    """MODEL with these changes and random weights."""
    torch.manual_seed(seed)
    model = build_model(override(MODEL, [f"{k}={v}" for k, v in changes.items()]))
    origin = {"path": None, "sha256": f"random-{seed}", "family": "deepavfusion"}
    return LoadedModel(model=model.eval(), origin=origin, folder=Path(), profile="paper", window_s=WINDOW_S)


if __name__ == "__main__":
    import sys
    torch.set_num_threads(1)
    out=Path(sys.argv[1]); seeds=[int(x) for x in sys.argv[2].split(",")]; names=sys.argv[3].split("|") if len(sys.argv)>3 else ["plain",*FINETUNE]
    data=Path("/tmp/little/digits")
    if not (data/"dataset.json").exists(): draw_digits(data)
    for name in names:
        for seed in seeds:
            changes, settings = FINETUNE.get(name, ({}, ()))
            config = override(FinetuneConfig(), [*PLAIN, *settings])
            loaded = untrained_model(changes, seed)
            train, test = open_splits(config.data, data, None)
            began=time.time()
            import tempfile
            score = plain_vit(config, loaded, train, test, seed) if name=="plain" else finetuned(config, loaded, data, train, test, seed, Path(tempfile.mkdtemp()))
            with open(out,"a") as f: f.write(json.dumps({"name":name,"seed":seed,"score":score,"s":round(time.time()-began)})+"\n")
            print(name, seed, score, round(time.time()-began), flush=True)
