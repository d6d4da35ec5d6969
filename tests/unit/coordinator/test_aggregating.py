"""Aggregators in real rounds: sealed updates in, a signed record out; bad input by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coordinator import aggregation
from coordinator.aggregation import Inputs, Merged, Share, Shares
from coordinator.aggregation._mean import finite
from coordinator.rounds import State
from federation.errors import InputError
from federation.messages import RoundDescriptor
from federation.records import RoundRecord
from tests.unit.coordinator.hospital import Hospital, trained
from tests.unit.coordinator.world import World


def joined(world: World, n: int, **settings: Any) -> list[Hospital]:  # noqa: ANN401
    hospitals = [world.member(f"h{i:02d}") for i in range(n)]
    world.open(quorum=n, **settings)
    return hospitals


def descriptor_of(world: World) -> RoundDescriptor:
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    return row.descriptor


def of_rank(descriptor: RoundDescriptor, hospital: str, rank: int) -> list[tuple[str, np.ndarray]]:
    stream = np.random.default_rng(list(hospital.encode()))
    shapes = descriptor.adapter_schema.shapes("AB", rank)
    return [(n, stream.normal(0, 0.05, s).astype(np.float32)) for n, s in shapes.items()]


def deliver(hospital: Hospital, **update: Any) -> None:  # noqa: ANN401
    receipt = hospital.upload(hospital.seal(1, **update))
    assert receipt.accepted, receipt.reason


def aborted(world: World, hospital: Hospital) -> RoundRecord:
    """The round ended without an adapter: the parent stays."""
    assert world.advance(1).state is State.ABORTED
    record = hospital.record(1)
    assert record.outcome == "aborted"
    assert record.adapter_sha256 == record.parent_adapter_sha256
    assert {c.weight for c in record.contributions} <= {0.0}
    return record


@pytest.mark.parametrize(
    ("asked", "canonical"),
    [
        ("agentic", "agentic+fedavg"),
        ("alternating", "alternating"),
        ("norm-clip+agentic-original+fedsvd", "agentic-original+norm-clip+fedsvd"),
        ("geometric-median+stacked", "geometric-median+stacked"),
    ],
)
def test_a_round_ends_with_an_adapter_and_says_how(
    world: World, asked: str, canonical: str
) -> None:
    hospitals = joined(world, 3, aggregator=asked)
    for i, hospital in enumerate(hospitals):
        metrics = {"loss_before": 3.0, "loss_after": 2.0 + i, "loss_variance": 0.1}
        deliver(hospital, header={"metrics": metrics})
    assert world.advance(1).state is State.PUBLISHED
    record = hospitals[0].record(1)
    assert record.aggregator == canonical
    assert record.adapter_sha256 != record.parent_adapter_sha256
    assert all(c.explanation.startswith(f"weight {c.weight:.2f}: ") for c in record.contributions)
    if asked == "agentic":
        assert "reported loss better than the median" in record.contributions[0].explanation
    cut = {m.path for m in descriptor_of(world).adapter_schema.modules}
    assert record.discarded.keys() == (cut if "stacked" in asked else set())
    assert all(0 <= lost <= 1 for lost in record.discarded.values())


def test_hospitals_of_different_rank_make_one_adapter(world: World) -> None:
    # Their changes are of chance, and so unlike each other.
    hospitals = joined(world, 3, aggregator="stacked", rank=3, anomalies="note")
    descriptor = descriptor_of(world)
    assert descriptor.mixed_ranks
    for hospital, rank in zip(hospitals, (1, 2, 3), strict=True):
        deliver(hospital, tensors=of_rank(descriptor, hospital.name, rank), rank=rank)
    assert world.advance(1).state is State.PUBLISHED
    adapter = dict(world.coordinator.blobs.read_adapter(hospitals[0].record(1).adapter_sha256))
    schema = descriptor.adapter_schema
    assert {name: t.shape for name, t in adapter.items()} == schema.shapes()


def test_a_rank_above_the_federations_is_refused_even_where_ranks_may_differ(world: World) -> None:
    h00, _ = joined(world, 2, aggregator="stacked")
    receipt = h00.upload(h00.seal(1, of_rank(descriptor_of(world), "h00", 3), rank=3))
    said = "The update's rank 3 is above the round's 2."
    assert (receipt.accepted, receipt.reason) == (False, said)
    world.clock.now += 24 * 3600
    assert [(r.hospital, r.reason) for r in aborted(world, h00).rejections] == [("h00", said)]


def test_without_mixed_ranks_a_lower_rank_is_refused(world: World) -> None:
    h00, *_ = joined(world, 2, aggregator="fedavg")
    assert not descriptor_of(world).mixed_ranks
    receipt = h00.upload(h00.seal(1, of_rank(descriptor_of(world), "h00", 1), rank=1))
    assert receipt.reason == "The update's rank is 1, not 2: fedavg takes no mixed ranks."


def test_all_updates_refused_keeps_the_previous_adapter(world: World) -> None:
    """Tensors of another schema, and NaN: each is refused by name, and the round ends."""
    h00, h01 = joined(world, 2)
    descriptor = descriptor_of(world)
    bad = trained(descriptor, "h01")
    bad[0][1][0, 0] = np.nan
    narrow = h00.seal(1, of_rank(descriptor, "h00", 1), rank=1, header={"rank": 2})
    assert not h00.upload(narrow).accepted
    assert not h01.upload(h01.seal(1, bad)).accepted
    world.clock.now += 24 * 3600
    record = aborted(world, h00)
    assert record.reason == "quorum not met at the deadline: 0 of 2 needed updates"
    reasons = {r.hospital: r.reason for r in record.rejections}
    assert "has shape (1, 6), not (2, 6)" in reasons["h00"]
    assert "not finite" in reasons["h01"]


def test_one_hospital_only_is_its_own_federation(world: World) -> None:
    (h00,) = joined(world, 1, aggregator="agentic+stacked")
    deliver(h00)
    assert world.advance(1).state is State.PUBLISHED
    assert h00.record(1).contributions[0].explanation == "weight 1.00: the only update"


def with_part(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """A plug-in that does otherwise."""
    parts = dict(aggregation.discover())
    parts[name] = replace(parts[name], **changes)  # type: ignore[arg-type]
    monkeypatch.setattr(aggregation, "discover", lambda: parts)


def test_weights_that_are_all_zero_end_the_round_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    h00, h01 = joined(world, 2, aggregator="fedavg")

    def nothing(inputs: Inputs) -> Shares:
        return {u.hospital: Share(0.0, "nothing") for u in inputs.updates}

    with_part(monkeypatch, "examples", weights=nothing)
    deliver(h00)
    deliver(h01)
    assert aborted(world, h00).reason == "not aggregated: all weights are zero"


def test_a_result_that_is_not_finite_ends_the_round_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    h00, h01 = joined(world, 2, aggregator="fedavg")

    def overflowing(inputs: Inputs, weights: Mapping[str, float]) -> Merged:
        tensors = aggregation.get("stacked").merge(inputs, weights).tensors
        return Merged((name, finite(name, t.astype(np.float64) * 1e300)) for name, t in tensors)

    with_part(monkeypatch, "fedavg", combine=overflowing)
    deliver(h00)
    deliver(h01)
    reason = aborted(world, h00).reason
    assert reason.startswith("not aggregated: The aggregate of tensor ")
    assert reason.endswith("is not finite in float32.")
    assert not list(world.paths.adapters.glob(".*"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"aggregator": "multi-krum+stacked"}, "withstands a lying hospital only with 5 updates"),
        ({"aggregator": "agentic", "metrics": "loss_before"}, "weighs by loss_after"),
        ({"aggregator": "fedavg+stacked"}, "two of a kind"),
        ({"aggregator": "agentic+geometric-median"}, "does not go with agentic"),
    ],
)
def test_what_cannot_work_is_refused_when_the_round_is_opened(
    world: World, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        joined(world, 3, **settings)
    assert "coordinator aggregators" in caught.value.hint
    assert world.coordinator.store.rounds.newest() is None
