"""Heartbeats, evaluations, and what ``status`` makes of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
from rich.console import Console

from coordinator.cli.status import changes, table
from coordinator.rounds import State
from coordinator.status import Status, federation_status
from federation.messages import EvaluationReport, ProgressReport
from tests.unit.coordinator.hospital import JSON, Hospital, problem
from tests.unit.coordinator.world import World


def beat(hospital: Hospital, step: int) -> None:
    report = ProgressReport(phase="training", step=step, of=12)
    assert hospital.request("POST", "/v1/rounds/1/progress", report).status_code == 204


def evaluate(hospital: Hospital, number: int, loss: float, n_examples: int) -> None:
    report = EvaluationReport(loss=loss, n_examples=n_examples)
    response = hospital.request("POST", f"/v1/rounds/{number}/evaluations", report)
    assert response.status_code == 204, response.text


def test_each_hospital_is_shown_with_what_it_does(world: World) -> None:
    h01, h02, _ = (world.member(name) for name in ("h01", "h02", "h03"))
    world.hospital("h04").enrol(world.invite("h04"))
    world.open()
    beat(h01, 3)
    beat(h01, 4)
    h02.upload(h02.seal(1))
    world.clock.now += 60
    status = federation_status(world.coordinator)
    assert (status.round, status.state, status.quorum) == (1, "open", 2)
    assert {h.hospital: h.text() for h in status.hospitals} == {
        "h01": "training step 4 of 12 (1 min ago)",
        "h02": "delivered",
        "h03": "silent",
        "h04": "waiting for approval",
    }
    world.clock.now += 121
    status = federation_status(world.coordinator)
    assert status.hospitals[0].text() == "silent, last training step 4 of 12 (3 min ago)"


def test_heartbeats_belong_to_an_open_round(world: World) -> None:
    h01 = world.member("h01")
    report = ProgressReport(phase="training", step=1, of=2)
    assert problem(h01.request("POST", "/v1/rounds/1/progress", report))[0] == 404
    world.open()
    world.clock.now += 24 * 3600
    assert problem(h01.request("POST", "/v1/rounds/1/progress", report))[0] == 410


def publish(world: World, number: int, *hospitals: Hospital) -> None:
    world.open()
    for hospital in hospitals:
        hospital.upload(hospital.seal(number))
    assert world.advance(number).state is State.PUBLISHED


def test_the_best_round_has_the_lowest_loss_over_all_held_out_examples(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    for number in (1, 2, 3):
        publish(world, number, h01, h02)
    evaluate(h01, 1, 3.0, 100)
    evaluate(h02, 1, 1.0, 300)
    evaluate(h01, 2, 1.0, 100)
    evaluate(h02, 2, 2.0, 300)
    # Known from one easy hospital only: not comparable.
    evaluate(h02, 3, 0.1, 300)
    status = federation_status(world.coordinator)
    assert [loss.loss for loss in status.losses] == pytest.approx([1.5, 1.75, 0.1])
    assert status.losses[1].by_hospital == {"h01": 1.0, "h02": 2.0}
    assert status.best_round == 1
    evaluate(h01, 3, 0.2, 100)
    assert federation_status(world.coordinator).best_round == 3


def test_only_a_published_adapter_can_be_evaluated(world: World) -> None:
    h01 = world.member("h01")
    world.open()
    report = EvaluationReport(loss=1.0, n_examples=1)
    assert problem(h01.request("POST", "/v1/rounds/1/evaluations", report))[:2] == (409, "round")
    assert problem(h01.request("POST", "/v1/rounds/2/evaluations", report))[0] == 404


@pytest.mark.parametrize("field", ["step", "of"])
def test_an_absurd_heartbeat_is_refused_not_a_failure(world: World, field: str) -> None:
    h01 = world.member("h01")
    world.open()
    body = json.dumps({"phase": "training", "step": 1, "of": 2} | {field: 10**30}).encode()
    response = h01.request("POST", "/v1/rounds/1/progress", body, media=JSON)
    assert problem(response)[:2] == (422, "invalid-input")
    beat(h01, 10**9)


@pytest.mark.parametrize(("loss", "n_examples"), [(1.0, 10**30), (1.7e308, 5), (1.7e308, 10**30)])
def test_absurd_evaluations_are_refused_and_the_status_stays(
    world: World, loss: float, n_examples: int
) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    publish(world, 1, h01, h02)
    for hospital in (h01, h02):
        body = json.dumps({"loss": loss, "n_examples": n_examples}).encode()
        response = hospital.request("POST", "/v1/rounds/1/evaluations", body, media=JSON)
        assert problem(response)[:2] == (422, "invalid-input")
        evaluate(hospital, 1, 1e4, 10**9)
    assert federation_status(world.coordinator).losses[0].loss == 1e4


def test_a_new_federation_has_no_round(world: World) -> None:
    status = federation_status(world.coordinator)
    assert (status.round, status.state, status.hospitals) == (0, "none", ())


def ahead(world: World) -> str:
    found = federation_status(world.coordinator).ahead
    assert found is not None
    return found.text


def test_what_comes_next_is_said_with_when_and_without_whom(world: World) -> None:
    h01, h02, h03 = (world.member(name) for name in ("h01", "h02", "h03"))
    world.open(deadline_minutes=240, grace_minutes=15, extensions=1, extension_minutes=30)
    assert ahead(world) == (
        "needs 2 more updates, waits for h01, h02, h03; "
        "otherwise extended by 30 min in 4 h, and 0 times after that"
    )
    h01.upload(h01.seal(1))
    world.clock.now += 3600
    beat(h03, 3)
    h02.upload(h02.seal(1))
    assert ahead(world) == "quorum met; waits for h03, at the latest 3 h more"
    world.clock.now += 11 * 60
    assert ahead(world) == "closes in 4 min without h03, silent for 11 min"
    world.clock.now += 5 * 60
    assert ahead(world) == "closes any moment without h03, silent for 16 min"
    world.advance(1)
    assert federation_status(world.coordinator).ahead is None


def test_a_round_short_of_quorum_says_when_it_is_aborted(world: World) -> None:
    h01, _ = world.member("h01"), world.member("h02")
    world.open(deadline_minutes=90)
    h01.upload(h01.seal(1))
    assert (
        ahead(world) == "needs 1 more update, waits for h02; otherwise it is aborted in 1 h 30 min"
    )


def test_a_part_of_an_update_is_a_sign_of_life(world: World) -> None:
    h01, _ = world.member("h01"), world.member("h02")
    world.open()
    world.clock.now += 1000
    update = h01.seal(1)
    h01.announce(update)
    h01.part(update, 0, update.body[:10])
    world.clock.now += 7
    status = federation_status(world.coordinator)
    assert [h.text() for h in status.hospitals] == ["working, last heard of 7 s ago", "silent"]


def test_watching_tells_each_change_once(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    world.open()

    def looks() -> Iterator[Status]:
        yield federation_status(world.coordinator)
        world.clock.now += 1
        yield federation_status(world.coordinator)
        beat(h01, 1)
        yield federation_status(world.coordinator)
        world.clock.now += 1
        yield federation_status(world.coordinator)
        h02.upload(h02.seal(1))
        yield federation_status(world.coordinator)

    seen = [[h.state for h in status.hospitals] for status in changes(looks())]
    assert seen == [["silent", "silent"], ["working", "silent"], ["working", "delivered"]]


def test_the_table_shows_who_does_what_and_what_comes_next(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    world.open()
    beat(h01, 5)
    h02.upload(h02.seal(1))
    world.clock.now += 5
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(federation_status(world.coordinator)))
    text = console.export_text()
    for part in (
        "round 1 is open",
        "training 5 of 12",
        "5 s ago",
        "delivered",
        "next: needs 1 more",
    ):
        assert part in text
