"""FedSVD: what is frozen has orthonormal rows after the first round, and stays it."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.aggregation import get
from federation.adapter import tensor_name
from tests.aggregating import SCHEMA, inputs_of, trained

FEDSVD = get("fedsvd")


def test_only_b_is_trained_in_every_round() -> None:
    assert {FEDSVD.combiner.factors(turn) for turn in range(1, 5)} == {"B"}


@pytest.mark.parametrize("turn", [1, 2])
def test_the_rows_of_a_are_orthonormal_and_the_columns_of_b_fall(turn: int) -> None:
    made = [trained(i, i, factors="B", turn=turn) for i in range(3)]
    weights = dict.fromkeys(("h00", "h01", "h02"), 1 / 3)
    found = dict(FEDSVD.merge(inputs_of(made, turn), weights).tensors)
    for module in SCHEMA.modules:
        a = found[tensor_name(module.path, "A")].astype(np.float64)
        assert np.allclose(a @ a.T, np.eye(SCHEMA.rank), atol=1e-6)
        lengths = np.linalg.norm(found[tensor_name(module.path, "B")], axis=0)
        assert list(lengths) == sorted(lengths, reverse=True)
        # The sign of a singular vector is free; here the largest entry is positive.
        assert (a[np.arange(2), np.abs(a).argmax(axis=1)] > 0).all()
