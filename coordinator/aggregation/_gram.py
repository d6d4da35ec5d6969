"""Inner products of what the hospitals changed, from r x r matrices only.

    <Delta W_i, Delta W_j> = s_i s_j sum((B_i^T B_j) o (A_i A_j^T))

Robust rules look at U_i = Delta W_i - Delta W_parent: after the first round the part that all
share would drown what they look for. Norms, distances and cosines all follow from <U_i, U_j>.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from coordinator.aggregation._modules import Module, modules
from coordinator.aggregation._types import Inputs
from federation.errors import AdapterError
from federation.low_rank import one_blas_thread


def gram(inputs: Inputs) -> np.ndarray:
    """(n, n) float64: <U_i, U_j> over all modules, in the order of the updates.

    One module of all hospitals is in memory at a time. Ranks may differ. Raises AdapterError
    unless all products are finite.
    """
    return gram_of(modules(inputs), len(inputs.updates))


def gram_of(found: Iterable[Module], n: int) -> np.ndarray:
    """``gram`` of the modules of ``n`` updates, read once."""
    products = np.zeros((n + 1, n + 1))
    with one_blas_thread():
        for module in found:
            pairs = [*module.updates.values(), module.parent]
            b = np.concatenate([p.scale * p.b.astype(np.float64) for p in pairs], axis=1)
            a = np.concatenate([p.a.astype(np.float64) for p in pairs])
            starts = np.cumsum([0, *(len(p.a) for p in pairs[:-1])])
            entries = (b.T @ b) * (a @ a.T)
            products += np.add.reduceat(np.add.reduceat(entries, starts, axis=0), starts, axis=1)
    both, parent = products[:n, :n], products[:n, n]
    moved = both - parent[:, None] - parent[None, :] + products[n, n]
    if not np.isfinite(moved).all():
        raise AdapterError("What the hospitals changed has products that are not finite.")
    symmetric: np.ndarray = (moved + moved.T) / 2
    return symmetric


def norms(products: np.ndarray) -> np.ndarray:
    """||U_i|| (n,): rounding may have taken a zero slightly below."""
    return np.sqrt(np.maximum(np.diag(products), 0.0))


def squared_distances(products: np.ndarray) -> np.ndarray:
    """||U_i - U_j||^2 (n, n)."""
    squares = np.diag(products)
    found: np.ndarray = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0.0)
    return found
