"""The adapter's schema, its checks, and the adapter that a federation starts from."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from federation.adapter import (
    AdapterSchema,
    ModuleShape,
    check_layout,
    checked_tensors,
    initial_adapter,
)
from federation.errors import AdapterError

SCHEMA = AdapterSchema(
    modules=(
        ModuleShape(path="m.k_proj", inputs=6, outputs=2),
        ModuleShape(path="m.q_proj", inputs=6, outputs=4),
    ),
    rank=3,
    alpha=6.0,
)
A = "base_model.model.m.q_proj.lora_A.weight"
B = "base_model.model.m.q_proj.lora_B.weight"


def test_shapes_are_peft_s() -> None:
    shapes = SCHEMA.shapes()
    assert shapes[A] == (3, 6)
    assert shapes[B] == (4, 3)
    assert list(shapes) == sorted(shapes)
    assert SCHEMA.n_parameters() == 3 * 6 * 2 + 3 * (2 + 4)


def test_one_factor_and_a_smaller_rank() -> None:
    assert set(SCHEMA.shapes("B", rank=1).values()) == {(2, 1), (4, 1)}
    assert all(".lora_A." in name for name in SCHEMA.shapes("A"))


def test_modules_must_be_sorted_and_distinct() -> None:
    with pytest.raises(ValidationError, match="sorted"):
        AdapterSchema(modules=SCHEMA.modules[::-1], rank=1, alpha=1.0)
    with pytest.raises(ValidationError, match="distinct"):
        AdapterSchema(modules=SCHEMA.modules[:1] * 2, rank=1, alpha=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({A: None}, "lacks 1"),
        ({"x": (1, 1)}, "unexpected"),
        ({A: (6, 3)}, r"\(6, 3\), not \(3, 6\)"),
    ],
)
def test_a_wrong_layout_is_refused_by_name(
    change: dict[str, tuple[int, ...] | None], message: str
) -> None:
    found = {n: s for n, s in {**SCHEMA.shapes(), **change}.items() if s is not None}
    with pytest.raises(AdapterError, match=message):
        check_layout(found, SCHEMA.shapes())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(bad: float) -> None:
    tensor = np.array([[1.0, bad]], np.float32)
    with pytest.raises(AdapterError, match="not finite"):
        list(checked_tensors(iter([(A, tensor)])))


def test_the_largest_values_are_finite() -> None:
    largest = np.full((1000, 100), np.finfo(np.float32).max)
    assert len(list(checked_tensors(iter([(A, largest), (B, largest)])))) == 2


def test_the_norm_is_over_all_tensors_together() -> None:
    tensors = [(A, np.full((1, 9), 1.0, np.float32)), (B, np.full((1, 16), 1.0, np.float32))]
    assert len(list(checked_tensors(iter(tensors), max_norm=5.0))) == 2
    with pytest.raises(AdapterError, match="norm 5"):
        list(checked_tensors(iter(tensors), max_norm=4.99))


def test_the_initial_adapter_changes_nothing_and_is_the_same_everywhere() -> None:
    first, second = dict(initial_adapter(SCHEMA, 7)), dict(initial_adapter(SCHEMA, 7))
    other = dict(initial_adapter(SCHEMA, 8))
    assert not first[B].any()
    assert np.abs(first[A]).max() <= 1 / np.sqrt(6)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first[A], other[A])
