"""Published code beside ours, where it is installed and where it is right.

Neither is a dependency: Flower pins other versions of what we use, and byzfl's package imports
torchvision. Flower averages in float32, which gives the tolerance; the oracles are elsewhere.
"""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.aggregation import get
from coordinator.aggregation.geometric_median import median_weights
from coordinator.aggregation.multi_krum import scores
from tests.aggregating import Made, changes, inputs_of, trained


def several(n: int) -> list[Made]:
    return [trained(i, i, turn=2) for i in range(n)]


def test_flower_averages_the_same() -> None:
    flower = pytest.importorskip("flwr.server.strategy.aggregate")
    made = several(4)
    counts = [10, 300, 25, 1]
    theirs = flower.aggregate(
        [(list(m.tensors.values()), n) for m, n in zip(made, counts, strict=True)]
    )
    weights = {m.hospital: n / sum(counts) for m, n in zip(made, counts, strict=True)}
    ours = get("fedavg").merge(inputs_of(made, 2), weights).tensors
    for (name, tensor), their in zip(ours, theirs, strict=True):
        assert np.allclose(tensor, their, rtol=1e-5, atol=1e-6), name


def test_byzfl_finds_the_same_geometric_median() -> None:
    byzfl = pytest.importorskip("byzfl.aggregators.aggregators")
    dense = changes(several(7), 2)
    theirs = byzfl.GeometricMedian(nu=1e-7, T=1000)(dense)
    assert np.allclose(median_weights(dense @ dense.T) @ dense, theirs, atol=1e-4)


def test_byzfl_keeps_the_same_updates() -> None:
    """Where its Krum, which has one neighbour more than Blanchard's, is given one attacker more."""
    byzfl = pytest.importorskip("byzfl.aggregators.aggregators")
    dense = changes(several(9), 2)
    f = 3
    products = dense @ dense.T
    squares = np.diag(products)
    distances = squares[:, None] + squares[None, :] - 2 * products
    kept = np.argsort(scores(distances, f - 1))[: 9 - f]
    assert np.allclose(byzfl.MultiKrum(f=f)(dense), dense[kept].mean(axis=0), atol=1e-9)
