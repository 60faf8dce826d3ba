"""How near separated sources are to the true ones: BSS-eval's SDR, SIR and SAR in dB, filters of 512 taps."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Final

import fast_bss_eval
import torch
from jaxtyping import Bool, Float
from torch import Tensor

METRICS: Final = ("sdr", "sir", "sar")
TAPS: Final = 512
MOST_DB: Final = 100.0  # scores beyond it are what rounding left, up to infinity
LEAST_ENERGY: Final = 1e-5  # sum of squares, below which there is no source to be found


def scores_of(references: Float[Tensor, "s n"], estimates: Float[Tensor, "s n"]) -> Float[Tensor, "3 s"]:
    """SDR, SIR and SAR of each source, the order being given: estimate k is of source k. Within MOST_DB.

    NaN for references that can't be told apart, as one is filtered from another.
    """
    try:
        found = fast_bss_eval.bss_eval_sources(
            references.double(), estimates.double(), filter_length=TAPS, compute_permutation=False
        )
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # documented
        return torch.full((3, len(references)), torch.nan, dtype=torch.float64)
    return torch.stack(found).clamp(-MOST_DB, MOST_DB)


def best_order(references: Float[Tensor, "s n"], parts: Float[Tensor, "s n"]) -> Float[Tensor, "s n"]:
    """The parts in the order of the references that they correlate with most, all together."""
    products = references @ parts.T / parts.norm(dim=1).clamp_min(1e-12)
    products = (products / references.norm(dim=1, keepdim=True).clamp_min(1e-12)).abs()
    rows = range(len(parts))
    order = max(
        permutations(rows), key=lambda order: sum(float(products[row, place]) for row, place in enumerate(order))
    )
    return parts[list(order)]


def is_silent(sources: Float[Tensor, "*b n"]) -> Bool[Tensor, "*b"]:
    """Which waveforms have too little energy to be found."""
    return sources.square().sum(dim=-1) < LEAST_ENERGY


def with_something(references: Float[Tensor, "b s n"], estimates: Float[Tensor, "b s n"]) -> Float[Tensor, "b s n"]:
    """The estimates, silent ones replaced by the mixture: what a mask that lets nearly nothing through would score.

    Silence itself has no score, and to leave it out would reward it.
    """
    return torch.where(is_silent(estimates).unsqueeze(-1), references.sum(dim=1, keepdim=True), estimates)


def all_scores(references: Float[Tensor, "b s n"], estimates: Float[Tensor, "b s n"]) -> Float[Tensor, "b 3 s"]:
    """`scores_of` mixture by mixture, in parallel, on the CPU."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(scores_of, references.cpu(), with_something(references, estimates).cpu())))
