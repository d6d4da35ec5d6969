"""What every weighting and every robust rule must hold. New ones are found by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import Inputs, Robust, Share, Weighting, discover, get
from coordinator.errors import CannotAggregate
from tests.aggregating import (
    assert_close,
    delta_w,
    hospital,
    inputs_of,
    parent_of,
    trained,
    weighted_sum,
    whole,
)

WEIGHTINGS = {name: part for name, part in discover().items() if isinstance(part, Weighting)}
ROBUST = {name: part for name, part in discover().items() if isinstance(part, Robust)}
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 100_000)

every_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS.values(), ids=WEIGHTINGS)
every_robust = pytest.mark.parametrize("robust", ROBUST.values(), ids=ROBUST)
quick = settings(max_examples=15, deadline=None)


def test_the_plug_ins_of_the_folder_are_found() -> None:
    assert {"examples", "equal", "agentic", "agentic-original"} <= WEIGHTINGS.keys()
    assert {"norm-clip", "multi-krum", "geometric-median"} <= ROBUST.keys()


@every_weighting
@quick
@given(st.lists(counts, min_size=1, max_size=8), seeds)
def test_weights_lie_on_the_simplex_and_are_explained(
    weighting: Weighting, n: list[int], seed: int
) -> None:
    stream = np.random.default_rng(seed)
    made = []
    for i, k in enumerate(n):
        known = [m for m in weighting.metrics if stream.random() < 0.8]
        metrics = {m: float(stream.lognormal()) for m in known}
        made.append(replace(trained(i, 1), n_examples=k, metrics=metrics))
    on_the_simplex(weighting, inputs_of(made))
    shares = weighting.weights(inputs_of(made))
    mixed = weighting.weights(inputs_of(made[::-1]))
    assert mixed == shares
    assert all(f"weight {share.weight:.2f}: " in share.explanation for share in shares.values())


def on_the_simplex(weighting: Weighting, inputs: Inputs) -> None:
    shares = weighting.weights(inputs)
    assert list(shares) == [u.hospital for u in inputs.updates]
    assert all(0 < share.weight <= 1 and share.reason for share in shares.values())
    assert sum(share.weight for share in shares.values()) == pytest.approx(1, abs=1e-12)


@every_robust
@pytest.mark.parametrize("size", [1e3, 1e12])
@quick
@given(seeds)
def test_attackers_of_any_size_move_the_result_a_bounded_way(
    robust: Robust, size: float, seed: int
) -> None:
    n = 7
    f = (n - 3) // 2 if robust is ROBUST["multi-krum"] else (n - 1) // 2
    bounded_under_attack(robust, n, f, np.float32(size), seed)


def bounded_under_attack(robust: Robust, n: int, f: int, size: np.float32, seed: int) -> None:
    """The result stays as near to the parent as a few of the farthest honest updates would."""
    made = [trained(i, seed + i, turn=2) for i in range(n)]
    for i in range(f):
        wild = {name: -size * tensor for name, tensor in made[i].tensors.items()}
        made[i] = replace(made[i], tensors=wild)
    shares = {m.hospital: Share(1 / n, "one vote") for m in made}
    weights = {h: s.weight for h, s in robust.adjust(inputs_of(made, 2), shares).items()}
    assert list(weights) == sorted(weights)
    parent = delta_w(parent_of(2))
    reach = max(distance(whole(m, 2), parent) for m in made[f:])
    assert distance(weighted_sum(made, weights, 2), parent) <= 3 * n * reach


def distance(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(one[path] - other[path]).sum() for path in one)))


@every_robust
@quick
@given(seeds)
def test_robust_rules_leave_equal_updates_alone_and_know_no_order(
    robust: Robust, seed: int
) -> None:
    same = [replace(trained(0, seed, turn=2), hospital=hospital(i)) for i in range(5)]
    votes = {m.hospital: Share(0.2, "one vote") for m in same}
    weights = robust.adjust(inputs_of(same, 2), votes)
    found = weighted_sum(same, {h: s.weight for h, s in weights.items()}, 2)
    assert_close(found, whole(same[0], 2), 1e-5)
    made = [trained(i, seed + i, turn=2) for i in range(5)]
    assert robust.adjust(inputs_of(made, 2), votes) == robust.adjust(
        inputs_of(made[::-1], 2), votes
    )


@every_weighting
def test_weights_that_are_not_normalised_are_seen(weighting: Weighting) -> None:
    def heavier(inputs: Inputs) -> dict[str, Share]:
        found = weighting.weights(inputs)
        return {h: replace(share, weight=1.1 * share.weight) for h, share in found.items()}

    made = [trained(i, 1) for i in range(3)]
    with pytest.raises(AssertionError):
        on_the_simplex(replace(weighting, weights=heavier), inputs_of(made))
    with pytest.raises(CannotAggregate, match="more than 1"):
        replace(get("fedavg"), weighting=replace(weighting, weights=heavier)).shares(
            inputs_of(made)
        )


@every_robust
def test_a_rule_that_does_nothing_is_seen(robust: Robust) -> None:
    idle = replace(robust, adjust=lambda inputs, shares: shares)
    with pytest.raises(AssertionError):
        bounded_under_attack(idle, 7, 2, np.float32(1e6), 1)
