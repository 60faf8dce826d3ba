"""Classical baselines of separation, which use neither training nor images: NMF and robust PCA.

Neither method assigns its parts to sources. The parts are assigned in the order that scores best (`best_order` of
avmodel.evaluate.separation.bss), which favors these baselines.
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
    """Parts by the ratio masks of a non-negative factorization (Kullback-Leibler) of the magnitudes."""
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
    """The low-rank and the sparse part, by a binary mask of where the sparse part is larger.

    Source: "Singing-Voice Separation from Monaural Recordings Using Robust Principal Component Analysis" (ICASSP 2012).
    """
    spectra = spectra_of(mixture, profile, 1)
    low_rank, sparse = robust_pca(spectra.abs().double())
    foreground = (sparse.abs() > low_rank.abs()).to(mixture)
    return waveform_of(torch.stack([1 - foreground, foreground]) * spectra, profile, len(mixture))


def robust_pca(
    matrix: Float[Tensor, "f t"], *, tolerance: float = 1e-5, most: int = 100
) -> tuple[Float[Tensor, "f t"], Float[Tensor, "f t"]]:
    """A low-rank and a sparse matrix whose sum is this one, by the inexact augmented Lagrangian method.

    The weight of sparsity is 1 / sqrt(longer side).

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
    """Soft thresholding: values moved towards 0 by at most `by`."""
    return values.sign() * (values.abs() - by).clamp_min(0)
