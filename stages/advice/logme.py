"""LogME: how well linear models of some features explain the truth, without fitting any.

The maximum evidence of You et al., "LogME: Practical assessment of pre-trained models for transfer
learning" (ICML 2021), a row. Targets y (n) are linear in features F (n × d) with noise,

    y = F w + e,    w ~ N(0, 1/α),    e ~ N(0, 1/β),

and what is maximised over α and β is p(y | F). It depends on F only through the eigenvalues σ of
F Fᵀ and the targets' shares z² along its eigenvectors. At most min(n, d) of the eigenvalues are not
0, and only these have a term: the prior of the other d - n weights cancels with their posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from permafrost.stages.datasets.targets import CLASSIFICATION, REGRESSION, Targets
from permafrost.stages.matrices.gram import build_grams
from permafrost.stages.matrices.matrix import Matrix, Rows

# The fixed point is approached from the best of these α/β, in units of the largest eigenvalue: the
# evidence may have several maxima.
_STARTS = np.logspace(-8, 4, 25)
_MOST_STEPS = 1000
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Targets in the coordinates of some features.

    Attributes
    ----------
    eigenvalues : ndarray of float64, shape (r,)
        Of the rows' Gram matrix, without those that are nothing but rounding.
    shares : ndarray of float64, shape (r, n_outputs)
        Squared length of each target along each eigenvector.
    rests : ndarray of float64, shape (n_outputs,)
        Squared length of each target outside of their span.
    """

    n_rows: int
    eigenvalues: NDArray[np.float64]
    shares: NDArray[np.float64]
    rests: NDArray[np.float64]


def encode_targets(targets: Targets) -> NDArray[np.float64]:
    """Write the truth as numbers: a column for each class or tag, or the value.

    Returns
    -------
    ndarray of float64, shape (n, n_outputs)
        Of a class or tag, 1 where a row has it and 0 elsewhere.
    """
    if targets.task == CLASSIFICATION:
        classes = np.unique(targets.values)
        encoded: NDArray[np.float64] = (targets.values[:, None] == classes).astype(np.float64)
        return encoded
    values: NDArray[np.float64] = targets.values.astype(np.float64)
    return values[:, None] if targets.task == REGRESSION else values


def decompose(
    matrix: Matrix, rows: Rows, outputs: NDArray[np.float64], *, n_bytes: int
) -> Spectrum:
    """Find the coordinates in one pass over the features.

    Parameters
    ----------
    rows : ndarray of int64, shape (n,)
    outputs : ndarray of float64, shape (n, n_outputs)
        As `encode_targets` gives them.
    n_bytes : int
        As for `Matrix.iterate_columns`.

    Raises
    ------
    InputError
        A row holds NaN or infinity.
    """
    (gram,) = build_grams(matrix, rows, [None], n_bytes=n_bytes)
    values, vectors = np.linalg.eigh(gram.upper, UPLO="U")
    is_kept = values > len(rows) * np.finfo(np.float64).eps * values.max()
    shares = (vectors[:, is_kept].T @ outputs) ** 2
    rests = np.maximum((outputs**2).sum(axis=0) - shares.sum(axis=0), 0.0)
    return Spectrum(n_rows=len(rows), eigenvalues=values[is_kept], shares=shares, rests=rests)


def maximise_evidence(spectrum: Spectrum) -> NDArray[np.float64]:
    """Return the largest log evidence a row of each target: LogME is their mean.

    The fixed point of the paper, α = γ / |m|² and β = (n - γ) / |F m - y|², with m the posterior
    mean of w and γ = Σ βσ / (α + βσ) the number of weights that the rows determine. In t = α/β:

        γ = Σ σ / (t + σ),   |m|² = Σ σ z² / (t + σ)²,   |F m - y|² = Σ (t z / (t + σ))² + rest.

    Returns
    -------
    ndarray of float64, shape (n_outputs,)
    """
    n_outputs = spectrum.shares.shape[1]
    if not len(spectrum.eigenvalues):  # All features are 0: noise is all there is.
        return _profile(spectrum, np.ones(n_outputs))
    starts = _STARTS * spectrum.eigenvalues.max()
    tried = np.array([_profile(spectrum, np.full(n_outputs, start)) for start in starts])
    t = starts[tried.argmax(axis=0)]
    for _ in range(_MOST_STEPS):
        previous, t = t, np.clip(_step(spectrum, t), starts[0] * 1e-8, starts[-1] * 1e8)
        if np.abs(np.log(t / previous)).max() < _TOLERANCE:
            break
    found: NDArray[np.float64] = np.maximum(_profile(spectrum, t), tried.max(axis=0))
    return found


def _step(spectrum: Spectrum, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return α/β of the next step."""
    sigma = spectrum.eigenvalues[:, None]
    gamma = (sigma / (t + sigma)).sum(axis=0)
    weights = (sigma * spectrum.shares / (t + sigma) ** 2).sum(axis=0)
    errors = ((t / (t + sigma)) ** 2 * spectrum.shares).sum(axis=0) + spectrum.rests
    tiny = np.finfo(np.float64).tiny
    stepped: NDArray[np.float64] = (
        gamma * errors / np.maximum((spectrum.n_rows - gamma) * weights, tiny)
    )
    return stepped


def _profile(spectrum: Spectrum, t: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log evidence a row at α/β = t and the β that is best with it."""
    shrunk = t / (t + spectrum.eigenvalues[:, None])
    n_rows = spectrum.n_rows
    # yᵀ (1 + F Fᵀ / t)⁻¹ y = |F m - y|² + t |m|²
    misfit = (shrunk * spectrum.shares).sum(axis=0) + spectrum.rests
    beta = n_rows / np.maximum(misfit, np.finfo(np.float64).tiny)
    evidence: NDArray[np.float64] = (
        0.5 * (n_rows * (np.log(beta / (2 * np.pi)) - 1) + np.log(shrunk).sum(axis=0)) / n_rows
    )
    return evidence
