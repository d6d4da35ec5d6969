"""Alternating factors: whose turn, and the frozen factor byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.aggregation import Inputs, Update, get
from federation.adapter import AdapterSchema, ModuleShape, initial_adapter

SCHEMA = AdapterSchema(
    modules=(
        ModuleShape(path="m", inputs=6, outputs=5),
        ModuleShape(path="m.abc", inputs=6, outputs=5),
    ),
    rank=3,
    alpha=3.0,
)
ALTERNATING = get("alternating")


def test_the_first_turn_trains_b_then_they_alternate() -> None:
    assert [ALTERNATING.combiner.factors(turn) for turn in (1, 2, 3, 4)] == ["B", "A", "B", "A"]


@pytest.mark.parametrize("turn", [1, 2])
def test_only_the_live_factor_changes(turn: int) -> None:
    parent = dict(initial_adapter(SCHEMA, 3))
    live = SCHEMA.shapes(ALTERNATING.combiner.factors(turn))
    sent = {name: np.full(shape, 2.5, np.float32) for name, shape in live.items()}
    update = Update("h01", 3, 4, {}, lambda: iter(sent.items()))
    given = Inputs.of(SCHEMA, lambda: iter(parent.items()), [update])
    found = dict(ALTERNATING.merge(given, {"h01": 1.0}).tensors)
    assert list(found) == sorted(SCHEMA.shapes())
    for name, tensor in found.items():
        expected = sent.get(name, parent[name])
        assert tensor.tobytes() == expected.tobytes()
