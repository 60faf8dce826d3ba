"""Fine-tuning on few samples takes the steps of a plain ViT, and learns a few pictures by heart."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avdata.load import LoaderConfig
from avmodel.configs.deepavfusion import DeepAVFusionConfig
from avmodel.distributed import World
from avmodel.evaluate.data import make_loader, one_view, open_splits, train_view
from avmodel.evaluate.evaluation import Evaluation
from avmodel.evaluate.features import label_matrix
from avmodel.evaluate.finetune.classifier import Classifier
from avmodel.evaluate.finetune.config import FinetuneConfig, small
from avmodel.evaluate.finetune.training import predict, trained
from avmodel.evaluate.heads import ALL, label_shares
from avmodel.evaluate.loaded import LoadedModel, with_settings
from avmodel.fit import endless
from avmodel.layers import ViT
from avmodel.metrics import METRICS, read_lines
from avmodel.models.deepavfusion import DeepAVFusion
from tests.digits import SECONDS, draw_digits

HERE = World(0, 1, torch.device("cpu"))
COUNT = 64
FEW_TOKENS: dict[str, Any] = {"num_fusion_tokens": 4, "num_aggr_image_tokens": 2, "num_aggr_audio_tokens": 2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return draw_digits(tmp_path_factory.mktemp("digits") / "set", num_train=COUNT, num_test=8)


def run_of(digits: Path, out: Path, **changes: Any) -> Evaluation:
    """An evaluation of a model with random weights."""
    torch.manual_seed(1)
    model = DeepAVFusion(
        DeepAVFusionConfig(
            size="32x2x4", image_size=(64, 64), audio_size=(128, 64), decoder_embed_dim=16, decoder_depth=1,
            decoder_num_heads=4, **FEW_TOKENS, **changes,
        )
    )  # fmt: skip
    loaded = LoadedModel(model=model.eval(), origin={"sha256": "random"}, folder=out, profile="paper", window_s=SECONDS)
    return Evaluation(loaded=loaded, test=digits, train=None, out=out, world=HERE)


def of_images(**changes: Any) -> FinetuneConfig:
    config = small()
    return replace(config, data=replace(config.data, mode="image", num_workers=0), random_weights=False, **changes)


class TorchViT(nn.Module):
    """A ViT of torch's own transformer with our weights: patches by `unfold`, mean of the tokens, one linear head."""

    def __init__(self, vit: ViT, head: nn.Linear) -> None:
        super().__init__()
        width = vit.patch_embed.proj.out_channels
        self.embed = nn.Linear(3 * 16 * 16, width)
        layers = [
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True,
                layer_norm_eps=1e-6,
            )
            for _ in vit.blocks
        ]  # fmt: skip
        self.blocks = nn.Sequential(*layers)
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, head.out_features)
        self.positions = vit.positions.clone()
        copies: list[tuple[nn.Module, nn.Module]] = [(self.norm, vit.norm), (self.head, head)]
        for layer, block in zip(layers, vit.blocks, strict=True):
            copies += [(layer.norm1, block.norm1), (layer.norm2, block.norm2), (layer.linear1, block.mlp.fc1)]
            copies += [(layer.linear2, block.mlp.fc2), (layer.self_attn.out_proj, block.attn.proj)]
            layer.self_attn.in_proj_weight.data.copy_(block.attn.qkv.weight)
            layer.self_attn.in_proj_bias.data.copy_(block.attn.qkv.bias)
        for ours, theirs in copies:
            ours.load_state_dict(theirs.state_dict())
        self.embed.weight.data.copy_(vit.patch_embed.proj.weight.flatten(1))
        self.embed.bias.data.copy_(vit.patch_embed.proj.bias)

    def forward(self, image: Tensor) -> Tensor:
        patches = F.unfold(image, 16, stride=16).transpose(1, 2)
        logits: Tensor = self.head(self.norm(self.blocks(self.embed(patches) + self.positions)).mean(dim=1))
        return logits


def rates(steps: int, peak: float, warmup: float) -> Sequence[float]:
    """A line up, then half a cosine down."""
    done = [step / steps for step in range(steps)]
    return [
        peak * (x / warmup if x < warmup else 0.5 * (1 + math.cos(math.pi * (x - warmup) / (1 - warmup)))) for x in done
    ]


def test_its_losses_are_those_of_a_plain_vit_step_by_step(digits: Path, tmp_path: Path) -> None:
    run = run_of(digits, tmp_path, fusion_layers="none")
    config = of_images(epochs=3, batch_size=16, device_batch_size=16, heads="concat")
    train, test = open_splits(config.data, digits, None)
    trained(config, run, train, test, 0, tmp_path / "run")
    found = [line["loss"] for line in read_lines(tmp_path / "run" / METRICS)]

    torch.manual_seed(0)
    classifier = Classifier(with_settings(run.loaded).model, 10, "image", heads="concat")
    classifier.heads.start_from_shares(label_shares(label_matrix(train.dataset)))
    model = classifier.model
    assert isinstance(model, DeepAVFusion)
    head = classifier.heads.heads["image"]
    assert isinstance(head, nn.Linear)
    plain = TorchViT(model.encoder.image, head)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.999)
    )
    view = train_view(config.data, run.loaded, max_gain_db=0.0, min_area=1.0, flip_probability=0.0)
    loader = make_loader(LoaderConfig(batch_size=16, seed=0), config.data, train, view, HERE)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = []
    for rate, batch in zip(rates(12, 1e-3, 0.1), endless(loader), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(plain((batch.images / 255 - mean) / std), batch.labels.int().argmax(dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert len(found) == 12
    assert found == pytest.approx(expected, abs=1e-4)
    assert found[-1] < found[0] - 0.01


@pytest.mark.slow
def test_early_fusion_learns_a_few_pictures_by_heart(digits: Path, tmp_path: Path) -> None:
    run = run_of(digits, tmp_path)
    config = of_images(epochs=60, batch_size=32, device_batch_size=32, optim=replace(small().optim, lr=3e-3))
    train, test = open_splits(config.data, digits, None)
    classifier = trained(config, run, train, test, 0, tmp_path / "run")
    logits = predict(config, classifier, run, train, one_view(config.data, run.loaded))
    labels = label_matrix(train.dataset).int().argmax(dim=1)
    assert (logits[ALL].argmax(dim=1) == labels).float().mean() > 0.95
