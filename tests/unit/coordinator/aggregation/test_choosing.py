"""Names joined with +: what goes together, what a round needs, and what is said where it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from coordinator.aggregation import Inputs, Share, Shares, Weighting, get
from coordinator.errors import CannotAggregate
from federation.errors import InputError
from federation.messages import Metric
from tests.aggregating import hospital, inputs_of, trained

EVERYTHING: tuple[Metric, ...] = get_args(Metric)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("fedavg", "fedavg"),
        ("examples+fedavg", "fedavg"),
        ("agentic", "agentic+fedavg"),
        ("stacked+agentic", "agentic+stacked"),
        ("stacked+multi-krum+agentic-original", "agentic-original+multi-krum+stacked"),
        ("geometric-median", "geometric-median+fedavg"),
        ("equal+geometric-median+fedsvd", "geometric-median+fedsvd"),
        ("equal+norm-clip", "equal+norm-clip+fedavg"),
        ("alternating+alternating", "alternating"),
    ],
)
def test_one_way_to_write_each_combination(given: str, canonical: str) -> None:
    aggregator = get(given)
    assert aggregator.name == canonical
    assert get(canonical) == aggregator


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(InputError, match="no aggregator 'Fedavg'") as caught:
        get("agentic+Fedavg")
    assert "alternating, " in caught.value.hint
    assert "coordinator aggregators" in caught.value.hint


def test_two_of_a_kind_are_refused() -> None:
    with pytest.raises(InputError, match="two of a kind: fedavg and stacked"):
        get("fedavg+agentic+stacked")


def test_one_vote_each_goes_with_no_other_weights() -> None:
    with pytest.raises(InputError, match="does not go with agentic") as caught:
        get("agentic+geometric-median+stacked")
    assert "--aggregator geometric-median+stacked." in caught.value.hint


@pytest.mark.parametrize(
    ("name", "members", "quorum", "nearest"),
    [
        ("multi-krum+stacked", 4, 4, "Open it with --aggregator norm-clip+stacked."),
        ("equal+multi-krum", 4, 3, "Open it with --aggregator geometric-median+fedavg."),
        ("multi-krum+agentic", 9, 4, "--quorum 5, or with --aggregator agentic+norm-clip+fedavg."),
        ("agentic+norm-clip", 3, 2, "--quorum 3, or with --aggregator agentic+fedavg."),
    ],
)
def test_too_few_updates_for_a_robust_rule_are_refused(
    name: str, members: int, quorum: int, nearest: str
) -> None:
    with pytest.raises(InputError, match=f"quorum is {quorum}") as caught:
        get(name).check_round(members, quorum, EVERYTHING)
    assert nearest in caught.value.hint
    get(name).check_round(9, 5, EVERYTHING)


def test_a_round_has_to_ask_for_the_metrics_that_weigh() -> None:
    with pytest.raises(InputError, match="loss_variance, which the round does not ask") as caught:
        get("agentic").check_round(2, 1, ("loss_before", "loss_after"))
    assert "--metrics loss_before,loss_after,loss_variance." in caught.value.hint


def weighing(*weights: float) -> Weighting:
    def weigh(inputs: Inputs) -> Shares:
        pairs = zip(inputs.updates, weights, strict=True)
        return {u.hospital: Share(w, "as the test says") for u, w in pairs}

    return Weighting(summary="The test's.", weights=weigh)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ((0.0, 0.0), "all weights are zero"),
        ((0.7, 0.7), "more than 1"),
        ((1.5, -0.5), "negative or not finite"),
        ((float("nan"), 0.5), "negative or not finite"),
    ],
)
def test_weights_that_make_no_mean_are_a_named_outcome(
    weights: tuple[float, ...], reason: str
) -> None:
    aggregator = replace(get("fedavg"), weighting=weighing(*weights))
    inputs = inputs_of([trained(i, i) for i in range(2)])
    with pytest.raises(CannotAggregate, match=reason):
        aggregator.shares(inputs)
    with pytest.raises(CannotAggregate, match=reason):
        aggregator.merge(inputs, {hospital(i): w for i, w in enumerate(weights)})


def test_no_update_and_too_few_are_named_outcomes() -> None:
    with pytest.raises(CannotAggregate, match="no update that could be used"):
        get("agentic").shares(inputs_of([]))
    with pytest.raises(CannotAggregate, match="needs 5 updates, and only 4 could be used"):
        get("multi-krum").shares(inputs_of([trained(i, i) for i in range(4)]))
