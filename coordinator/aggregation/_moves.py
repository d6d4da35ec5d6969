"""How far hospitals moved the factors themselves, for means that are taken of factors.

A Delta W is a product of many pairs: B A = (B G) (G^-1 A). Whoever sends an honest change as quite
other factors looks honest to the Gram matrix, and ruins a mean of factors, in which its B meets the
others' A.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coordinator.aggregation._gram import gram_of
from coordinator.aggregation._modules import Module, modules
from coordinator.aggregation._types import Inputs


def gram_and_moves(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """``gram``, and how far the factors moved, in one reading of the updates.

    The moves are (n,) float64: sqrt(sum ||A_i - A_parent||^2 + ||B_i - B_parent||^2) over all
    modules, in the order of the updates, all of the schema's rank. Raises AdapterError where
    updates do not fit together.
    """
    squares = np.zeros(len(inputs.updates))

    def measured() -> Iterator[Module]:
        for module in modules(inputs):
            for i, pair in enumerate(module.updates.values()):
                for sent, start in ((pair.a, module.parent.a), (pair.b, module.parent.b)):
                    moved = np.subtract(sent, start, dtype=np.float64).ravel()
                    squares[i] += moved @ moved
            yield module

    products = gram_of(measured(), len(squares))
    return products, np.sqrt(squares)
