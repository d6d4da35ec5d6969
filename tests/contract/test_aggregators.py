"""What every combiner must hold, whatever it computes. New ones are found by themselves.

The invariants are functions, so that they can be seen to fail: at the end of this file each meets
combiners that transpose a factor, forget the scale or do not normalise the weights.
"""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import (
    Combiner,
    Inputs,
    Merged,
    Tensors,
    Update,
    discover,
)
from federation.adapter import AdapterSchema, ModuleShape
from federation.errors import AdapterError
from tests.aggregating import (
    SCHEMA,
    Adapter,
    Made,
    assert_close,
    best_of_rank,
    delta_w,
    hospital,
    inputs_of,
    parent_of,
    trained,
    weighted_sum,
    whole,
)

COMBINERS = {name: part for name, part in discover().items() if isinstance(part, Combiner)}
TURNS = (1, 2)
seeds = st.integers(0, 2**32 - 1)

every_combiner = pytest.mark.parametrize("combiner", COMBINERS.values(), ids=COMBINERS)
each_turn = pytest.mark.parametrize("turn", TURNS)
quick = settings(max_examples=15, deadline=None)


def several(combiner: Combiner, turn: int, n: int, seed: int) -> list[Made]:
    factors = combiner.factors(turn)
    return [trained(i, seed + i, factors=factors, turn=turn) for i in range(n)]


def run(
    combiner: Combiner, made: list[Made], weights: Mapping[str, float], turn: int
) -> dict[str, np.ndarray]:
    return dict(combiner.combine(inputs_of(made, turn), weights).tensors)


def simplex(n: int, seed: int) -> dict[str, float]:
    raw = np.random.default_rng(seed).uniform(0.05, 1, n)
    return {hospital(i): float(w / raw.sum()) for i, w in enumerate(raw)}


def test_the_combiners_of_the_folder_are_found() -> None:
    assert {"fedavg", "alternating", "fedsvd", "stacked"} <= COMBINERS.keys()
    assert all(part.summary.endswith(".") for part in discover().values())


def is_a_whole_adapter(combiner: Combiner, turn: int, seed: int) -> None:
    made = several(combiner, turn, 1, seed)
    found = list(combiner.combine(inputs_of(made, turn), {"h00": 1.0}).tensors)
    assert {name: t.shape for name, t in found} == SCHEMA.shapes()
    assert [name for name, _ in found] == sorted(SCHEMA.shapes())
    assert all(tensor.dtype == np.float32 for _, tensor in found)


def has_identical_updates_as_fixed_point(combiner: Combiner, turn: int, seed: int) -> None:
    """And so a single update is the identity."""
    for n in (1, 3):
        (one,) = several(combiner, turn, 1, seed)
        same = [replace(one, hospital=hospital(i)) for i in range(n)]
        found = run(combiner, same, simplex(n, seed), turn)
        assert_close(delta_w(found), whole(one, turn))


def is_as_exact_as_declared(combiner: Combiner, turn: int, seed: int) -> None:
    """And what the weights leave of 1 is the parent's."""
    if combiner.exact == "no":
        return
    made = several(combiner, turn, 4, seed)
    for part in (1.0, 0.6):
        weights = {name: part * w for name, w in simplex(4, seed).items()}
        expected = weighted_sum(made, weights, turn)
        if combiner.exact == "up to rank":
            expected = {p: best_of_rank(m, SCHEMA.rank) for p, m in expected.items()}
        assert_close(delta_w(run(combiner, made, weights, turn)), expected)


def is_the_mean_where_a_is_shared(combiner: Combiner, turn: int, seed: int) -> None:
    """With one A for all, every combiner that hospitals send B for is exact."""
    if "B" not in combiner.factors(turn):
        return
    parent = parent_of(turn)
    made = [
        replace(m, tensors={n: parent[n] if ".lora_A." in n else t for n, t in m.tensors.items()})
        for m in several(combiner, turn, 3, seed)
    ]
    weights = simplex(3, seed)
    found = delta_w(run(combiner, made, weights, turn))
    assert_close(found, weighted_sum(made, weights, turn))


INVARIANTS: list[Callable[[Combiner, int, int], None]] = [
    is_a_whole_adapter,
    has_identical_updates_as_fixed_point,
    is_as_exact_as_declared,
    is_the_mean_where_a_is_shared,
]


@every_combiner
@each_turn
@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda f: f.__name__)
@quick
@given(seeds)
def test_every_combiner(
    combiner: Combiner, turn: int, invariant: Callable[[Combiner, int, int], None], seed: int
) -> None:
    invariant(combiner, turn, seed)


@every_combiner
@each_turn
def test_every_order_of_hospitals_gives_the_same_bytes(combiner: Combiner, turn: int) -> None:
    # Sums of such numbers depend on their order, even in float64.
    scales = {"h00": 1e17, "h01": -1e17, "h02": 1.0, "h03": 1e4}
    (one,) = several(combiner, turn, 1, 5)
    made = [
        replace(one, hospital=h, tensors={n: t * np.float32(s) for n, t in one.tensors.items()})
        for h, s in scales.items()
    ]
    weights = dict.fromkeys(scales, 0.25)
    results = {
        b"".join(t.tobytes() for t in run(combiner, list(order), weights, turn).values())
        for order in itertools.permutations(made)
    }
    assert len(results) == 1


@every_combiner
@each_turn
@quick
@given(seeds)
def test_weight_zero_equals_absence(combiner: Combiner, turn: int, seed: int) -> None:
    made = several(combiner, turn, 3, seed)
    weights = {"h00": 0.25, "h01": 0.0, "h02": 0.75}
    expected = run(combiner, [made[0], made[2]], weights, turn)
    # Nothing of it is read: 0 times what is not finite would not be 0.
    unreadable = {name: np.full_like(t, np.nan) for name, t in made[1].tensors.items()}
    found = run(combiner, [made[0], replace(made[1], tensors=unreadable), made[2]], weights, turn)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@every_combiner
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_no_result_that_is_not_finite_leaves_an_aggregation(
    combiner: Combiner, value: float
) -> None:
    made = several(combiner, 1, 2, 1)
    next(iter(made[1].tensors.values()))[0, 0] = value
    with pytest.raises(AdapterError, match="not finite"):
        run(combiner, made, {"h00": 0.5, "h01": 0.5}, 1)


# Memory

WIDE = AdapterSchema(
    modules=tuple(ModuleShape(path=f"m.{i}", inputs=8192, outputs=8192) for i in range(3)),
    rank=16,
    alpha=16.0,
)
TENSOR_BYTES = 4 * 16 * 8192


def peak_bytes(combiner: Combiner, n_hospitals: int) -> int:
    """Peak memory while aggregating streams whose tensors exist one at a time."""

    def stream(factors: str, seed: int) -> Iterator[tuple[str, np.ndarray]]:
        for name, shape in WIDE.shapes().items():
            if name.split(".lora_")[1][0] in factors:
                yield name, np.full(shape, seed, np.float32)

    def source(seed: int) -> Tensors:
        return stream(combiner.factors(1), seed)

    updates = [Update(hospital(i), 16, 1, {}, partial(source, i)) for i in range(n_hospitals)]
    given_ = Inputs.of(WIDE, lambda: stream("AB", 1), updates)
    weights = dict.fromkeys((u.hospital for u in updates), 1 / n_hospitals)
    tracemalloc.start()
    for _ in combiner.combine(given_, weights).tensors:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@every_combiner
def test_memory_of_a_linear_combiner_does_not_grow_with_the_hospitals(combiner: Combiner) -> None:
    if combiner.linear:
        few, many = peak_bytes(combiner, 2), peak_bytes(combiner, 16)
        assert many - few < TENSOR_BYTES / 2


# The invariants themselves


def transposed(factor: str) -> Callable[[Adapter], dict[str, np.ndarray]]:
    def change(adapter: Adapter) -> dict[str, np.ndarray]:
        return {
            name: t.T.reshape(t.shape) if f".lora_{factor}." in name else t
            for name, t in adapter.items()
        }

    return change


def without_scale(adapter: Adapter) -> dict[str, np.ndarray]:
    scale = np.float32(SCHEMA.alpha / SCHEMA.rank)
    return {n: t / scale if ".lora_B." in n else t for n, t in adapter.items()}


def broken(combiner: Combiner, fault: str) -> Combiner:
    """The combiner with one classic mistake."""
    faults = {"A": transposed("A"), "B": transposed("B"), "scale": without_scale}

    def combine(inputs: Inputs, weights: Mapping[str, float]) -> Merged:
        if fault == "weights":
            return combiner.combine(inputs, {h: 1.25 * w for h, w in weights.items()})
        result = faults[fault](dict(combiner.combine(inputs, weights).tensors))
        return Merged(iter(result.items()))

    return replace(combiner, combine=combine)


@every_combiner
@each_turn
@pytest.mark.parametrize("fault", ["A", "B", "scale", "weights"])
@pytest.mark.parametrize("invariant", INVARIANTS[1:], ids=lambda f: f.__name__)
def test_a_broken_combiner_is_seen(
    combiner: Combiner, turn: int, fault: str, invariant: Callable[[Combiner, int, int], None]
) -> None:
    nothing_to_hold = (invariant is is_as_exact_as_declared and combiner.exact == "no") or (
        invariant is is_the_mean_where_a_is_shared and "B" not in combiner.factors(turn)
    )
    if not nothing_to_hold:
        with pytest.raises(AssertionError):
            invariant(broken(combiner, fault), turn, 3)
