"""BSS-eval scores of separated sources: SDR, SIR and SAR in dB, with filters of 512 taps."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from typing import Final

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

METRICS: Final = ("sdr", "sir", "sar")
TAPS: Final = 512
MOST_DB: Final = 100.0  # scores are cut here: what lies beyond is rounding error
LEAST_ENERGY: Final = 1e-5  # sum of squares; a source with less counts as silent


def scores_of(references: Float[Tensor, "s n"], estimates: Float[Tensor, "s n"]) -> Float[Tensor, "3 s"]:
    """SDR, SIR and SAR of each source in dB, from -MOST_DB to MOST_DB. Estimate k is of source k.

    An estimate is projected on the span of its source's delays (0 to TAPS - 1 samples), which gives the target, and on
    the span of all sources' delays, which gives target and interference; the rest is artifacts. With estimates of norm
    1, the shares of energy that the two projections hold are all that the scores need.

    Returns:
        The scores; NaN if one reference is a filtered copy of another.

    Source: Vincent, Gribonval, Fevotte, "Performance measurement in blind audio source separation", 2006 (BSS-eval v3),
    solved by correlations as in Scheibler, "SDR - medium rare with fast computations", 2022.
    """
    references, estimates = (waveforms.double() / waveforms.double().norm(dim=1, keepdim=True).clamp_min(1e-30)
                             for waveforms in (references, estimates))  # fmt: skip
    length = references.shape[1] + TAPS  # no delay wraps around
    spectra, estimated = (torch.fft.rfft(waveforms, length) for waveforms in (references, estimates))
    delays = torch.arange(TAPS, device=references.device)
    products = torch.fft.irfft(spectra.conj().unsqueeze(1) * spectra, length)  # [i, j, k]: i with j shifted by k
    gram = products[:, :, delays.unsqueeze(1) - delays]  # a negative shift counts from the end
    cross = torch.fft.irfft(spectra.conj().unsqueeze(1) * estimated, length)[:, :, :TAPS]  # [source, estimate, delay]
    every = rearrange(cross, "i k a -> k (i a)")
    own = torch.diagonal(cross, dim1=0, dim2=1).T
    try:
        whole = torch.linalg.solve(rearrange(gram, "i j a b -> (i a) (j b)"), every.T).T
        alone = torch.linalg.solve(torch.diagonal(gram, dim1=0, dim2=1).movedim(-1, 0), own)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # documented
        return torch.full((3, len(references)), torch.nan, dtype=torch.float64)
    target, explained = (own * alone).sum(dim=1), (every * whole).sum(dim=1)
    ratios = torch.stack(
        [
            target / (1 - target).clamp_min(0),
            target / (explained - target).clamp_min(0),
            explained / (1 - explained).clamp_min(0),
        ]
    )
    return (10 * ratios.log10()).clamp(-MOST_DB, MOST_DB)


def best_order(references: Float[Tensor, "s n"], parts: Float[Tensor, "s n"]) -> Float[Tensor, "s n"]:
    """The parts, permuted so that the sum of their correlations with the references is greatest."""
    products = references @ parts.T / parts.norm(dim=1).clamp_min(1e-12)
    products = (products / references.norm(dim=1, keepdim=True).clamp_min(1e-12)).abs()
    rows = range(len(parts))
    order = max(
        permutations(rows), key=lambda order: sum(float(products[row, place]) for row, place in enumerate(order))
    )
    return parts[list(order)]


def is_silent(sources: Float[Tensor, "*b n"]) -> Bool[Tensor, "*b"]:
    """Whether each waveform has less energy than LEAST_ENERGY."""
    return sources.square().sum(dim=-1) < LEAST_ENERGY


def replace_silent(references: Float[Tensor, "b s n"], estimates: Float[Tensor, "b s n"]) -> Float[Tensor, "b s n"]:
    """The estimates, with the mixture in place of silent ones.

    A silent estimate has no score, and leaving it out would reward it. The mixture scores as a nearly empty mask does.
    """
    return torch.where(is_silent(estimates).unsqueeze(-1), references.sum(dim=1, keepdim=True), estimates)


def all_scores(references: Float[Tensor, "b s n"], estimates: Float[Tensor, "b s n"]) -> Float[Tensor, "b 3 s"]:
    """`scores_of` each mixture, in parallel on the CPU."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return torch.stack(list(pool.map(scores_of, references.cpu(), replace_silent(references, estimates).cpu())))
