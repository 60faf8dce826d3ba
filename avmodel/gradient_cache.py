"""A contrastive loss over more samples than the devices take at once, with the gradients of one large batch.

Two passes over the micro-batches that are compared together. The first one computes, without a graph, the vectors that
are compared. The loss of all of them gives each vector's gradient. The second pass computes each micro-batch again, now
with a graph, and gives its vectors these gradients. Both passes have the same masks, augmentation and dropout, so the
sum of the gradients is that of one batch of all the samples, up to rounding.

Source: "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (arXiv:2101.06983).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from avmodel.models.family import Contrast, Family, Output, Vectors


class Compared(NamedTuple):
    """The contrastive loss of several micro-batches as one, and its gradients in the vectors of each."""

    loss: Float[Tensor, ""]
    gradients: list[Vectors]


def two_passes(
    model: Family, call: Callable[[int, Contrast], Output], parts: Sequence[int]
) -> Iterator[Mapping[str, Float[Tensor, ""]]]:
    """The losses of each micro-batch, one after the other; the contrastive one is that of all of them together.

    Every process calls this for as many micro-batches of equally many samples. Nothing is kept of a micro-batch once
    the next one is asked for.

    Args:
        model: The model, which compares samples.
        call: Gets the number of a micro-batch and what becomes of its vectors; calls the model for that micro-batch.
            Two calls for one number draw the same random numbers.
        parts: Numbers of the micro-batches that are compared together.

    Yields:
        `total`, then its terms. The mean of `total` over the parts, with its gradients, is the loss of one batch.
    """
    with torch.no_grad():
        # Copies: a CUDA graph writes the next micro-batch's vectors to the same memory.
        firsts = [copied(call(number, Contrast.ALONE).vectors) for number in parts]
    compared = compare(model, firsts)
    weight = model.config.contrast_weight
    for number, gradients in zip(parts, compared.gradients, strict=True):
        output = call(number, Contrast.APART)
        assert output.vectors is not None
        contrast = with_gradients(compared.loss, output.vectors, gradients, len(parts))
        losses = dict(output.losses)
        total = losses.pop("total", None)
        del output
        yield {
            "total": weight * contrast if total is None else weight * contrast + total,
            "contrast": contrast,
            **losses,
        }


def copied(vectors: Vectors | None) -> Vectors:
    """The vectors in memory of their own."""
    assert vectors is not None
    return Vectors(*(rows.clone() for rows in vectors))


def compare(model: Family, parts: Sequence[Vectors]) -> Compared:
    """The contrastive loss of the parts' rows as one batch, over all processes, and its gradients in each part's rows.

    A gradient is the sum over the losses of all processes, as in a call of the model: see `all_gather_with_grad`.
    """
    sizes = [len(part.anchors) for part in parts]
    with torch.enable_grad():
        whole = Vectors(*(torch.cat(rows).requires_grad_() for rows in zip(*parts, strict=True)))
        loss = model.contrast(whole)
        found = torch.autograd.grad(loss, whole)
    gradients = [Vectors(*rows) for rows in zip(*(torch.split(rows, sizes) for rows in found), strict=True)]
    return Compared(loss.detach(), gradients)


def with_gradients(loss: Float[Tensor, ""], vectors: Vectors, gradients: Vectors, parts: int) -> Float[Tensor, ""]:
    """A loss of that value which gives the vectors `parts` times these gradients.

    Its mean over the parts then gives every part's vectors their gradients once.
    """
    moved = torch.stack(
        [(rows.float() * (parts * slope.float())).sum() for rows, slope in zip(vectors, gradients, strict=True)]
    ).sum()
    return loss + (moved - moved.detach())
