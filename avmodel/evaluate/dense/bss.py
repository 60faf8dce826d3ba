"""How near separated sources are to the true ones: BSS-eval's SDR, SIR and SAR in dB, filters of 512 taps."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Final

import fast_bss_eval
import torch
from jaxtyping import Float
from torch import Tensor

METRICS: Final = ("sdr", "sir", "sar")
TAPS: Final = 512
LEAST_ENERGY: Final = 1e-5  # sum of squares, below which there is no source to be found


def scores_of(references: Float[Tensor, "s n"], estimates: Float[Tensor, "s n"]) -> Float[Tensor, "3 s"]:
    """SDR, SIR and SAR of each source, the order being given: estimate k is of source k.

    Raises torch's LinAlgError for references that are silent or filtered from one another.
    """
    found = fast_bss_eval.bss_eval_sources(
        references.double(),
        estimates.double(),
        filter_length=TAPS,
        compute_permutation=False,
        clamp_db=200,
    )
    return torch.stack(found)


def best_order(references: Float[Tensor, "s n"], parts: Float[Tensor, "s n"]) -> Float[Tensor, "s n"]:
    """The parts in the order of the references that they correlate with most, all together."""
    products = references @ parts.T / parts.norm(dim=1).clamp_min(1e-12)
    products = (products / references.norm(dim=1, keepdim=True).clamp_min(1e-12)).abs()
    rows = range(len(parts))
    order = max(
        permutations(rows), key=lambda order: sum(float(products[row, place]) for row, place in enumerate(order))
    )
    return parts[list(order)]


def is_silent(sources: Float[Tensor, "s n"]) -> bool:
    """Whether some source has too little energy to be found."""
    return bool((sources.square().sum(dim=-1) < LEAST_ENERGY).any())


def all_scores(
    references: Sequence[Float[Tensor, "s n"]], estimates: Sequence[Float[Tensor, "s n"]]
) -> list[Float[Tensor, "3 s"]]:
    """`scores_of` mixture by mixture, in parallel."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(scores_of, references, estimates))
