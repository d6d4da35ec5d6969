"""Unusual updates: quarantined, reviewed by a person, and never dropped without a word."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from coordinator.cli import cli
from coordinator.review import decide_about, find, listing
from coordinator.rounds import Request, State
from coordinator.status import federation_status
from federation.adapter import initial_adapter
from federation.errors import RoundClosed, RoundError
from federation.log import LogEntry
from federation.records import RoundRecord
from federation.terminal import run
from tests.unit.coordinator.hospital import Hospital, trained
from tests.unit.coordinator.world import World

REVIEW_SECONDS = 3600
HOUR = 3600


def flipped(world: World, hospital: Hospital) -> list[tuple[str, np.ndarray]]:
    """The opposite of what this hospital learnt."""
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    schema = row.descriptor.adapter_schema
    parent = dict(initial_adapter(schema, row.descriptor.recipe.seed))
    return [(n, 2 * parent[n] - t) for n, t in trained(row.descriptor, hospital.name)]


def joined(world: World, n: int, **settings: Any) -> list[Hospital]:  # noqa: ANN401
    hospitals = [world.member(f"h{i:02d}") for i in range(1, n + 1)]
    world.open(**settings)
    return hospitals


def deliver(world: World, *hospitals: Hospital, liars: int = 0) -> None:
    """Each delivers; the last ``liars`` the opposite of what they learnt."""
    honest = len(hospitals) - liars
    for i, hospital in enumerate(hospitals):
        lie = flipped(world, hospital) if i >= honest else None
        assert hospital.upload(hospital.seal(1, lie)).accepted


def four_with_a_liar(world: World, **settings: Any) -> list[Hospital]:  # noqa: ANN401
    hospitals = joined(world, 4, **settings)
    deliver(world, *hospitals, liars=1)
    return hospitals


def log(world: World) -> list[tuple[str, str | None, str]]:
    store = world.coordinator.store.log
    entries = [LogEntry.model_validate_json(e) for e in store.entries(0, store.head().size)]
    return [(e.kind, e.hospital, e.detail) for e in entries]


@pytest.mark.parametrize("n", [3, 4])
def test_a_liar_is_left_out_after_the_time_for_a_review_and_everybody_can_read_why(
    world: World, n: int
) -> None:
    hospitals = joined(world, n)
    deliver(world, *hospitals, liars=1)
    h01, liar = hospitals[0], hospitals[-1]
    assert world.advance(1).state is State.OPEN
    assert "points away from the others'" in liar.current().quarantine
    assert h01.current().quarantine == ""
    world.clock.now += REVIEW_SECONDS - 1
    assert world.advance(1).state is State.OPEN
    world.clock.now += 1
    assert world.advance(1).state is State.PUBLISHED
    record = liar.record(1)
    (rejection,) = record.rejections
    assert rejection.hospital == liar.name
    assert rejection.reason.startswith("left in quarantine, nobody admitted it: its change points")
    assert rejection.change is not None
    assert rejection.change.cosine is not None
    assert rejection.change.cosine < -0.3
    assert [c.hospital for c in record.contributions] == [h.name for h in hospitals[:-1]]
    assert all(c.change and c.change.cosine and c.change.cosine > 0.3 for c in record.contributions)
    assert f"nobody admitted {liar.name} from quarantine" in record.reason
    kinds = [(kind, hospital) for kind, hospital, _ in log(world)]
    assert ("finding", liar.name) in kinds
    assert ("exclusion", liar.name) in kinds
    assert {"update_unusual", "update_excluded"} <= {name for name, _ in world.events}
    (shown,) = [
        h for h in federation_status(world.coordinator).hospitals if h.hospital == liar.name
    ]
    assert (shown.state, shown.why) == ("left out", rejection.reason)


def test_without_a_time_for_review_it_is_left_out_at_once(world: World) -> None:
    four_with_a_liar(world, review_minutes=0)
    assert world.advance(1).state is State.PUBLISHED
    assert find(world.coordinator, "h04").state == "excluded"


def test_admitted_by_a_person_it_counts_and_the_record_says_so(world: World) -> None:
    *_, liar = four_with_a_liar(world, aggregator="fedavg")
    world.advance(1)
    one = decide_about(world.coordinator, "h04", "admitted", "rare diseases only, asked by phone")
    assert (one.state, one.until) == ("admitted", None)
    assert world.advance(1).state is State.PUBLISHED
    record = liar.record(1)
    assert record.rejections == ()
    (own,) = [c for c in record.contributions if c.hospital == "h04"]
    assert own.weight == pytest.approx(0.25)
    assert "admitted by the administrator: rare diseases only, asked by phone" in own.explanation
    assert "points away from" in own.explanation
    (entry,) = [detail for kind, _, detail in log(world) if kind == "review"]
    assert "admitted: rare diseases only" in entry


def test_a_person_may_exclude_what_is_not_odd_and_change_their_mind(world: World) -> None:
    h01, *_ = joined(world, 4, quorum=3)
    hospitals = [h01, *_]
    deliver(world, *hospitals[:3])
    world.advance(1)
    one = decide_about(world.coordinator, "h01", "excluded", "trained on test data, they say")
    assert one.state == "excluded"
    assert world.advance(1).state is State.OPEN, "two of three needed updates are left"
    decide_about(world.coordinator, "h01", "admitted", "they were mistaken")
    decide_about(world.coordinator, "h02", "excluded", "their server was broken into")
    deliver(world, hospitals[3])
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert [c.hospital for c in record.contributions] == ["h01", "h03", "h04"]
    (rejection,) = record.rejections
    assert rejection.reason == "excluded by the administrator: their server was broken into"


def test_with_note_an_odd_update_is_used_and_noted(world: World) -> None:
    *_, liar = four_with_a_liar(world, anomalies="note")
    assert world.advance(1).state is State.PUBLISHED
    (own,) = [c for c in liar.record(1).contributions if c.hospital == "h04"]
    assert "; noted: its change points away from" in own.explanation


def in_other_factors(world: World, hospital: Hospital) -> list[tuple[str, np.ndarray]]:
    """What this hospital learnt, as a very long B and a very short A."""
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    size = {True: np.float32(50), False: np.float32(1 / 50)}
    return [(n, size[".lora_B." in n] * t) for n, t in trained(row.descriptor, hospital.name)]


@pytest.mark.parametrize("aggregator", ["fedavg", "stacked"])
def test_an_honest_change_in_lying_factors_is_kept_from_a_mean_of_factors(
    world: World, aggregator: str
) -> None:
    """B and A of one product, but others: the sum of products does not see it, and is not hurt."""
    hospitals = joined(world, 4, aggregator=aggregator, review_minutes=0)
    deliver(world, *hospitals[:3])
    liar = hospitals[3]
    assert liar.upload(liar.seal(1, in_other_factors(world, liar))).accepted
    assert world.advance(1).state is State.PUBLISHED
    record = hospitals[0].record(1)
    if aggregator == "stacked":
        assert record.rejections == ()
        return
    (left_out,) = record.rejections
    assert left_out.hospital == "h04"
    assert "it moved the factors " in left_out.reason


def test_below_quorum_without_the_quarantined_the_others_are_waited_for(world: World) -> None:
    hospitals = joined(world, 4, quorum=3, deadline_minutes=240)
    deliver(world, *hospitals[1:], liars=1)
    assert world.advance(1).state is State.OPEN
    assert "needs 1 more update, waits for h01" in ahead(world)
    assert "in quarantine: h04" in ahead(world)
    world.clock.now += 2 * HOUR
    assert world.advance(1).state is State.OPEN, "h01 may come until the deadline"
    deliver(world, hospitals[0])
    assert world.advance(1).state is State.PUBLISHED, "the time for h04's review is over"
    assert [r.hospital for r in hospitals[0].record(1).rejections] == ["h04"]


def ahead(world: World) -> str:
    coming = federation_status(world.coordinator).ahead
    assert coming is not None
    return coming.text


def test_too_few_left_keeps_the_previous_adapter_and_says_who_was_left_out(world: World) -> None:
    hospitals = joined(world, 3, quorum=3)
    deliver(world, *hospitals, liars=1)
    assert world.advance(1).state is State.OPEN
    world.clock.now += REVIEW_SECONDS
    row = world.advance(1)
    assert row.state is State.ABORTED
    record = hospitals[0].record(1)
    assert record.reason == (
        "only 2 of 3 needed updates could be used; nobody admitted h03 from quarantine"
    )
    kept(record)
    assert [r.hospital for r in record.rejections] == ["h03"]
    assert [c.weight for c in record.contributions] == [0.0, 0.0]


def test_all_excluded_keeps_the_previous_adapter(world: World) -> None:
    hospitals = joined(world, 3)
    deliver(world, *hospitals[:2])
    world.advance(1)
    for hospital in hospitals[:2]:
        decide_about(world.coordinator, hospital.name, "excluded", "a wrong base model was used")
    assert world.advance(1).state is State.OPEN
    world.clock.now += 24 * HOUR
    assert world.advance(1).state is State.ABORTED
    record = hospitals[0].record(1)
    kept(record)
    assert [r.hospital for r in record.rejections] == ["h01", "h02"]
    assert record.contributions == ()


def kept(record: RoundRecord) -> None:
    assert record.outcome == "aborted"
    assert record.adapter_sha256 == record.parent_adapter_sha256


def test_one_hospital_alone_is_accused_of_nothing(world: World) -> None:
    (h01,) = joined(world, 1)
    deliver(world, h01, liars=1)
    assert world.advance(1).state is State.PUBLISHED
    (own,) = h01.record(1).contributions
    assert own.weight == 1.0
    assert own.change is not None
    assert own.change.cosine is None


def test_the_administrator_closes_without_waiting_for_a_review(world: World) -> None:
    four_with_a_liar(world)
    assert world.advance(1, Request.CLOSE).state is State.PUBLISHED
    assert find(world.coordinator, "h04").state == "excluded"


def test_a_round_does_not_close_over_a_decision_that_came_meanwhile(world: World) -> None:
    four_with_a_liar(world)
    world.advance(1)
    store = world.coordinator.store
    before = store.rounds.get(1)
    assert before is not None
    decide_about(world.coordinator, "h04", "admitted", "asked by phone")
    uploads = {u.hospital: u.upload_id for u in store.uploads.of_round(1)}
    out = uploads.pop("h04")
    assert not store.rounds.close(
        1,
        included=frozenset(uploads.values()),
        excluded={out: "odd"},
        inputs_sha256="0" * 64,
        looks=before.looks,
        reason="",
        now=1,
    )


def test_another_update_is_looked_at_again_without_a_new_time_for_review(world: World) -> None:
    hospitals = joined(world, 5, quorum=4)
    deliver(world, *hospitals[:3])
    deliver(world, hospitals[3], liars=1)
    world.advance(1)
    first = find(world.coordinator, "h04")
    world.clock.now += 1800
    deliver(world, hospitals[4])
    world.advance(1)
    again = find(world.coordinator, "h04")
    assert again.until == first.until
    assert again.finding != first.finding
    assert [kind for kind, *_ in log(world)].count("finding") == 1


def test_nothing_to_decide_about_is_said(world: World) -> None:
    h01, *_ = joined(world, 3)
    with pytest.raises(RoundError, match="h01 has no update in round 1"):
        decide_about(world.coordinator, "h01", "excluded", "never came")
    deliver(world, h01)
    with pytest.raises(RoundError, match="was not examined yet") as caught:
        decide_about(world.coordinator, "h01", "excluded", "too early")
    assert "there are 2" in str(caught.value)
    deliver(world, *_)
    world.clock.now += 1
    coordinator = world.coordinator
    assert world.advance(1).state is State.PUBLISHED
    with pytest.raises(RoundClosed, match="Round 1 is published"):
        decide_about(coordinator, "h01", "admitted", "too late")


def test_what_is_usual_needs_no_admission(world: World) -> None:
    four_with_a_liar(world)
    world.advance(1)
    with pytest.raises(RoundError, match="Nothing is odd about the update of h01"):
        decide_about(world.coordinator, "h01", "admitted", "why not")
    assert {r.hospital: r.state for r in listing(world.coordinator)} == {
        "h01": "usual",
        "h02": "usual",
        "h03": "usual",
        "h04": "quarantined",
    }


def command(world: World, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["--home", str(world.paths.home), "review", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_lists_shows_and_decides(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    four_with_a_liar(world)
    world.advance(1)
    lines = command(world, "list").splitlines()
    assert lines[0].split() == ["h01", "usual"]
    assert lines[3].startswith("h04                  quarantined until 20")
    shown = command(world, "show", "h04")
    assert "cosine with the others      -0." in shown
    assert "usual among the others      +0." in shown
    assert "loss validated here         not known" in shown
    assert "its variance over folds     not known" in shown
    found = json.loads(command(world, "show", "h04", "--json"))
    assert found["finding"]["figures"]["norm_ratio"] > 0
    admitted = json.loads(command(world, "admit", "h04", "--reason", "asked", "--json"))
    assert (admitted["state"], admitted["decision_reason"]) == ("admitted", "asked")
    excluded = command(world, "exclude", "h04", "--reason", "lied")
    assert excluded == "The update of h04 in round 1 is excluded: lied\n"
    arguments = ["--home", str(world.paths.home), "review", "admit", "h09", "--reason", "x"]
    assert run(cli, arguments) == RoundError.exit_code
    assert "h09 has no update" in capsys.readouterr().err
