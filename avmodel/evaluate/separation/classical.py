"""Separation without learning and without seeing: what the papers' tables begin with.

Neither method says which of its parts is which source. Parts are given to the sources in the order that scores best
(`best_order` of avmodel.evaluate.separation.bss), which is generous to them.
"""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.decomposition import NMF
from torch import Tensor

from avdata.profiles import MelProfile
from avmodel.evaluate.separation.spectra import spectra_of, waveform_of


def nmf_parts(
    mixture: Float[Tensor, " n"], sources: int, profile: MelProfile, *, iterations: int = 200
) -> Float[Tensor, "s n"]:
    """One component a source of a non-negative factorization of the magnitudes (Kullback-Leibler), as ratio masks."""
    spectra = spectra_of(mixture, profile, 1)
    magnitudes = spectra.abs().numpy().astype(np.float64) + 1e-9
    model = NMF(
        sources, init="nndsvda", solver="mu", beta_loss="kullback-leibler", tol=0, max_iter=iterations, random_state=0
    )
    activations = model.fit_transform(magnitudes)
    parts = np.einsum("fs,st->sft", activations, model.components_)
    masks = torch.from_numpy(parts / np.maximum(parts.sum(axis=0), 1e-12)).to(mixture)
    return waveform_of(masks * spectra, profile, len(mixture))


def rpca_parts(mixture: Float[Tensor, " n"], profile: MelProfile) -> Float[Tensor, "2 n"]:
    """What repeats (low rank) and what doesn't (sparse), by a binary mask where the latter is the larger.

    Source: "Singing-Voice Separation from Monaural Recordings Using Robust Principal Component Analysis" (ICASSP 2012).
    """
    spectra = spectra_of(mixture, profile, 1)
    low_rank, sparse = robust_pca(spectra.abs().double())
    foreground = (sparse.abs() > low_rank.abs()).to(mixture)
    return waveform_of(torch.stack([1 - foreground, foreground]) * spectra, profile, len(mixture))


def robust_pca(
    matrix: Float[Tensor, "f t"], *, tolerance: float = 1e-5, most: int = 100
) -> tuple[Float[Tensor, "f t"], Float[Tensor, "f t"]]:
    """The low-rank and the sparse matrix that sum up to this one, by the inexact augmented Lagrangian method.

    Sparsity weighs 1 / sqrt(longer side).

    Source: Lin, Chen and Ma (arXiv:1009.5055), algorithm 5.
    """
    norm = torch.linalg.matrix_norm(matrix)
    if norm == 0:
        return torch.zeros_like(matrix), torch.zeros_like(matrix)
    weight = max(matrix.shape) ** -0.5
    spectral = torch.linalg.matrix_norm(matrix, 2)
    multiplier = matrix / torch.maximum(spectral, matrix.abs().max() / weight)
    mu = 1.25 / spectral
    sparse = torch.zeros_like(matrix)
    for _ in range(most):
        u, values, v = torch.linalg.svd(matrix - sparse + multiplier / mu, full_matrices=False)
        low_rank = (u * (values - 1 / mu).clamp_min(0)) @ v
        sparse = shrunk(matrix - low_rank + multiplier / mu, weight / mu)
        rest = matrix - low_rank - sparse
        multiplier, mu = multiplier + mu * rest, mu * 1.5
        if torch.linalg.matrix_norm(rest) < tolerance * norm:
            break
    return low_rank, sparse


def shrunk(values: Float[Tensor, "f t"], by: Float[Tensor, ""]) -> Float[Tensor, "f t"]:
    """Values moved towards 0 by as much, and not past it."""
    return values.sign() * (values.abs() - by).clamp_min(0)
