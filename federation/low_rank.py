"""Products of thin matrices, cut to a rank by a thin SVD; the product itself is never formed.

For ``left`` (out, k) and ``right`` (k, in): QR of ``left`` and of ``right``'s transpose, then the
SVD of the k x k core between them. All in float64, with fixed signs and one BLAS thread, so that
the same input gives the same bytes whatever OMP_NUM_THREADS says (on one kind of processor).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from federation.adapter import AdapterSchema, module_path
from federation.errors import AdapterError

ROW_LENGTH = 1 / math.sqrt(3)
"""Length of A's rows as ``initial_adapter`` draws them: uniform in +-1/sqrt(in), expected square.

A factor with rows of this length leaves a learning rate its meaning, and none of them is zero
where a singular value is: with both factors zero a direction could never be trained again.
"""


@dataclass(frozen=True)
class ThinSVD:
    """``u`` (out, k), ``sigma`` (k,) falling, ``vt`` (k, in): u diag(sigma) vt, k as small."""

    u: np.ndarray
    sigma: np.ndarray
    vt: np.ndarray

    def factors(self, rank: int, row_length: float) -> tuple[np.ndarray, np.ndarray]:
        """B (out, rank) and A (rank, in) of the best approximation: A A^T = row_length^2 I.

        Rows and columns beyond the number of singular values are zero.
        """
        b = np.zeros((self.u.shape[0], rank))
        a = np.zeros((rank, self.vt.shape[1]))
        kept = min(rank, len(self.sigma))
        b[:, :kept] = self.u[:, :kept] * (self.sigma[:kept] / row_length)
        a[:kept] = self.vt[:kept] * row_length
        return b, a

    def discarded(self, rank: int) -> float:
        """The part of the squared Frobenius norm that ``factors(rank)`` leaves out, 0 to 1."""
        energy = np.square(self.sigma)
        whole = float(energy.sum())
        return float(energy[rank:].sum()) / whole if whole > 0 else 0.0


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Linear algebra on one thread: with more, the order of sums depends on how many."""
    with threadpool_limits(1, "blas"):
        yield


def thin_svd(left: np.ndarray, right: np.ndarray) -> ThinSVD:
    """The SVD of ``left @ right``; each row of ``vt`` has its largest entry positive.

    There are min(in, k) singular values at most; those beyond the product's rank are zero, their
    rows of ``vt`` orthonormal all the same. Raises AdapterError unless both sides are finite.
    """
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise AdapterError("Factors hold a value that is not finite.")
    with one_blas_thread():
        q_left, r_left = np.linalg.qr(left.astype(np.float64, copy=False))
        q_right, r_right = np.linalg.qr(right.astype(np.float64, copy=False).T)
        core = r_left @ r_right.T
        n_rows, n_columns = core.shape
        if n_rows < n_columns:
            # All right directions are wanted, those with singular value zero too.
            core = np.pad(core, ((0, n_columns - n_rows), (0, 0)))
            q_left = np.pad(q_left, ((0, 0), (0, n_columns - n_rows)))
        u, sigma, vt = np.linalg.svd(core, full_matrices=False)
        u, vt = q_left @ u, vt @ q_right.T
    largest = np.argmax(np.abs(vt), axis=1)
    signs = np.where(vt[np.arange(len(vt)), largest] < 0, -1.0, 1.0)
    return ThinSVD(u * signs, sigma, vt * signs[:, None])


@dataclass(frozen=True)
class Truncation:
    """An adapter at a lower rank; ``discarded`` is the part of each module's squared norm lost."""

    tensors: Iterator[tuple[str, np.ndarray]]
    discarded: dict[str, float]
    """Filled while the tensors are read."""


def truncated(
    tensors: Iterator[tuple[str, np.ndarray]], schema: AdapterSchema, rank: int
) -> Truncation:
    """The best approximation of rank ``rank`` of each module's Delta W, as float32 factors.

    ``tensors`` are a whole adapter of the schema in name order. The scale is alpha / rank
    afterwards. Where a hospital of lower rank starts from under ``stacked`` (FLoRA, 2409.05976).
    """
    discarded: dict[str, float] = {}

    def stream() -> Iterator[tuple[str, np.ndarray]]:
        for (name_a, a), (name_b, b) in zip(tensors, tensors, strict=True):
            svd = thin_svd(b, a)
            discarded[module_path(name_a)] = svd.discarded(rank)
            b_new, a_new = svd.factors(rank, ROW_LENGTH)
            yield name_a, a_new.astype(np.float32)
            yield name_b, (b_new * (rank / schema.rank)).astype(np.float32)

    return Truncation(stream(), discarded)
