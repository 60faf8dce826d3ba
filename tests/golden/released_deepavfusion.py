"""DeepAVFusion's autoencoder and its training once more, as functions of the released state dict.

Written from the paper and a description of the released code, and sharing nothing with avmodel, so that no mistake is
made in both. The golden losses hold its forward pass.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS, PATCH = 4, 16
MOMENTS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.05


class Released:
    """Losses of one batch under one masking, by weights that are named as the released checkpoint names them."""

    def __init__(self, state: Mapping[str, Tensor], tokens: tuple[int, int, int]) -> None:
        self.tokens = tokens
        self.state = {name: t.clone() for name, t in state.items()}
        self.trained = [name for name in state if not name.endswith(("image.pos_embed", "audio.pos_embed"))]
        self.depth = 1 + max(int(name.split(".")[3]) for name in state if name.startswith("encoder.image.blocks."))
        for name in self.trained:
            self.state[name].requires_grad_()

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        centered = x - x.mean(dim=-1, keepdim=True)
        scaled = centered / (centered.square().mean(dim=-1, keepdim=True) + eps).sqrt()
        return scaled * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def mlp(self, x: Tensor, name: str) -> Tensor:
        return self.linear(F.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def block(self, x: Tensor, name: str, eps: float) -> Tensor:
        q, k, v = self.linear(self.norm(x, f"{name}.norm1", eps), f"{name}.attn.qkv").chunk(3, dim=-1)
        x = x + self.linear(attend(q, k, v, q.shape[-1] // HEADS), f"{name}.attn.proj")
        return x + self.mlp(self.norm(x, f"{name}.norm2", eps), f"{name}.mlp")

    def fuse(self, fusion: Tensor, image: Tensor, audio: Tensor, name: str) -> Tensor:
        """The fusion tokens after a block; the residual starts from the normalized ones."""
        attn = f"{name}.attn"
        factorized = f"{attn}.attn_v.q.weight" in self.state
        dense = not factorized and self.state[f"{attn}.kv.weight"].shape[1] == 2 * fusion.shape[-1]
        norms = ("norm1_img", "norm1_aud") if factorized or dense else ("norm1_aud", "norm1_img")  # token swaps them
        image, audio = (self.norm(x, f"{name}.{norm}", 1e-5) for x, norm in zip((image, audio), norms, strict=True))
        fusion = self.norm(fusion, f"{name}.norm1_mm", 1e-5)
        head = fusion.shape[-1] // HEADS
        if factorized:
            own, of_image, of_audio = fusion.split(self.tokens, dim=1)
            gathered = []
            for part, tokens, side in ((of_image, image, "attn_v"), (of_audio, audio, "attn_a")):
                k, v = self.linear(tokens, f"{attn}.{side}.kv").chunk(2, dim=-1)
                found = attend(self.linear(part, f"{attn}.{side}.q"), k, v, head)
                gathered.append(self.linear(found, f"{attn}.{side}.proj"))
            both = pairs(*gathered)
            q = self.linear(own, f"{attn}.q")
            found = attend(q, self.linear(both, f"{attn}.k"), self.linear(both, f"{attn}.v"), head)
            change = torch.cat([self.linear(found, f"{attn}.proj"), *gathered], dim=1)
        else:
            both = pairs(audio, image) if dense else torch.cat([image, audio], dim=1)
            k, v = self.linear(both, f"{attn}.kv").chunk(2, dim=-1)
            q = self.linear(fusion, f"{attn}.q")
            change = self.linear(attend(q, k, v, head if dense else q.shape[-1] // HEADS), f"{attn}.proj")
        fusion = fusion + change
        return fusion + self.mlp(self.norm(fusion, f"{name}.norm2", 1e-5), f"{name}.mlp")

    def encode(self, inputs: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tokens = {}
        for name, x in inputs.items():
            kernel, bias = (self.state[f"encoder.{name}.patch_embed.proj.{part}"] for part in ("weight", "bias"))
            patches = F.conv2d(x, kernel, bias, stride=PATCH).flatten(2).transpose(1, 2)
            patches = patches + self.state[f"encoder.{name}.pos_embed"]
            tokens[name] = torch.stack([row[ids] for row, ids in zip(patches, kept[name], strict=True)])
        fusion = self.state["encoder.fusion_tokens"].expand(len(x), -1, -1)
        count = fusion.shape[1]
        for layer in range(self.depth):
            fused = f"encoder.fusion_blocks.{layer}"
            if f"{fused}.norm2.weight" not in self.state:
                tokens = {name: self.block(x, f"encoder.{name}.blocks.{layer}", 1e-6) for name, x in tokens.items()}
                continue
            after = {
                name: self.block(torch.cat([fusion, x], dim=1), f"encoder.{name}.blocks.{layer}", 1e-6)[:, count:]
                for name, x in tokens.items()
            }
            fusion = self.fuse(fusion, tokens["image"], tokens["audio"], fused)
            tokens = after
        tokens = {name: self.norm(x, f"encoder.{name}.norm", 1e-6) for name, x in tokens.items()}
        return {**tokens, "fusion": self.norm(fusion, "encoder.fusion_norm", 1e-5)}

    def predict(self, x: Tensor, fusion: Tensor, ids: Tensor, name: str) -> Tensor:
        decoder = f"{name}_decoder"
        x, fusion = self.linear(x, f"{decoder}_embed"), self.linear(fusion, f"{decoder}_embed")
        positions = self.state[f"{decoder}_pos_embed"]
        rows = []
        for visible, places in zip(x, ids, strict=True):
            row = self.state[f"{decoder}_mask_token"][0].expand(positions.shape[1], -1)
            rows.append(row.index_copy(0, places, visible))
        x = torch.cat([fusion, torch.stack(rows) + positions], dim=1)
        layer = 0
        while f"{decoder}_blocks.{layer}.norm1.weight" in self.state:
            x = self.block(x, f"{decoder}_blocks.{layer}", 1e-5)
            layer += 1
        return self.linear(self.norm(x[:, fusion.shape[1] :], f"{decoder}_norm", 1e-5), f"{decoder}_pred")

    def losses(self, inputs: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each modality: over hidden patches, of patches that are normalized each by itself."""
        streams = self.encode(inputs, kept)
        found = {}
        for name, x in inputs.items():
            predicted = self.predict(streams[name], streams["fusion"], kept[name], name)
            cells = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # b c rows columns PATCH PATCH
            target = cells.permute(0, 2, 3, 4, 5, 1).reshape(*predicted.shape)
            target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
            hidden = torch.ones(predicted.shape[:2]).scatter(1, kept[name], 0.0)
            found[name] = ((predicted - target).square().mean(dim=-1) * hidden).sum() / hidden.sum()
        return found


def attend(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
    """Attention of HEADS heads; similarities are divided by the root of `head`, whatever the width of q and k."""
    q, k, v = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2)) / math.sqrt(head)).softmax(dim=-1).matmul(v).transpose(1, 2).flatten(2)


def pairs(first: Tensor, second: Tensor) -> Tensor:
    """Every token of one side beside every token of the other, channel by channel."""
    rows, columns = first.shape[1], second.shape[1]
    return torch.cat([first.repeat_interleave(columns, dim=1), second.repeat(1, rows, 1)], dim=-1)


def rates(epoch: float, *, epochs: int, warmup: int, peak: float) -> tuple[float, float]:
    """The learning rate at an epoch, and that of encoders with published weights."""
    if epoch < warmup:
        lr = peak * epoch / warmup
    else:
        lr = peak / 2 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))
    half = epochs / 2
    return lr, lr * (0.5 - 0.5 * math.cos(math.pi * epoch / half) if epoch < half else 1.0)


class Trained:
    """AdamW on the released weights, one step after the other."""

    def __init__(self, model: Released) -> None:
        self.model, self.steps = model, 0
        self.moments = {name: [torch.zeros_like(model.state[name]) for _ in MOMENTS] for name in model.trained}

    def step(self, loss: Tensor, lr: float, encoder_lr: float) -> None:
        weights = [self.model.state[name] for name in self.model.trained]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        self.steps += 1
        with torch.no_grad():
            for name, weight, gradient in zip(self.model.trained, weights, gradients, strict=True):
                rate = encoder_lr if name.startswith(("encoder.image.", "encoder.audio.")) else lr
                first, second = self.moments[name]
                first.lerp_(gradient, 1 - MOMENTS[0])
                second.lerp_(gradient.square(), 1 - MOMENTS[1])
                mean, square = (x / (1 - beta**self.steps) for x, beta in zip((first, second), MOMENTS, strict=True))
                decay = DECAY if weight.ndim > 1 else 0.0
                weight.sub_(rate * (decay * weight + mean / (square.sqrt() + EPS)))
