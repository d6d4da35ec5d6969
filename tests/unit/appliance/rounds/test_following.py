"""Following a federation: what is done when, what is waited for, and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from appliance.events import Event, Note
from appliance.rounds.following import Follower, Steps
from federation.errors import IdentityError, PolicyRefusal, RoundError, TransportError
from federation.messages import CurrentRound

AWAY = TransportError("No answer.", retryable=True)


class OverlyPatient(Exception):
    """More waits than any of these stories needs."""


@dataclass
class Federation:
    """Rounds as a hospital sees them; each look at them takes the next scene."""

    scenes: Iterator[CurrentRound | Exception]
    refusals: dict[int, list[Exception]] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def current(self) -> CurrentRound:
        scene = next(self.scenes)
        if isinstance(scene, Exception):
            raise scene
        return scene

    def take_part(self, number: int) -> None:
        self.acts.append(f"train {number}")
        if self.refusals.get(number):
            raise self.refusals[number].pop(0)

    def sync(self, number: int, evaluate: bool) -> None:
        self.acts.append(f"sync {number}{' and measure' if evaluate else ''}")

    def note(self, event: Event) -> None:
        assert isinstance(event, Note)
        self.notes.append(event.text)

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) > 50:
            raise OverlyPatient

    def follow(self, rounds: int | None = None, **known: Any) -> Follower:  # noqa: ANN401
        steps = Steps(self.current, self.take_part, self.sync)
        follower = Follower(steps, self.note, sleep=self.wait, **known)
        follower.follow(rounds)
        return follower


def see(number: int, state: str, delivered: bool = False) -> CurrentRound:
    return CurrentRound.model_validate({"round": number, "state": state, "delivered": delivered})


def play(*scenes: CurrentRound | Exception, **more: Any) -> Federation:  # noqa: ANN401
    return Federation(iter(scenes), **more)


def test_every_round_is_trained_and_every_adapter_fetched() -> None:
    story = play(
        see(0, "none"),
        see(1, "open"),
        see(1, "open", True),
        see(2, "open"),
        see(2, "aggregated", True),
        see(2, "published", True),
    )
    assert story.follow(2).delivered == [1, 2]
    assert story.acts == ["train 1", "sync 1", "train 2", "sync 2 and measure"]
    assert story.notes == [
        "Waiting for the first round.",
        "Waiting for the end of round 1, which is open; this hospital has delivered.",
        "Waiting for the end of round 2, which is aggregated; this hospital has delivered.",
    ]


def test_it_says_once_what_it_waits_for_and_waits_ever_longer_up_to_a_bound() -> None:
    scenes = [see(1, "published")] * 20
    story = play(*scenes, see(2, "open"), see(2, "published", True))
    story.follow(1, synced=1)
    assert story.notes == ["Waiting for the next round: round 1 is published."]
    assert story.waits[0] <= 2
    assert 7.5 <= story.waits[15] <= 15


def test_a_lost_line_is_waited_for_with_growing_jittered_pauses() -> None:
    story = play(*[AWAY] * 10, see(1, "open"), see(1, "published", True))
    assert story.follow(1).delivered == [1]
    assert story.waits[0] <= 1
    assert all(pause <= 60 for pause in story.waits)
    assert len(set(story.waits)) > 5
    assert story.notes[0].startswith("No answer. Looking again in ")


def test_a_coordinator_that_asks_to_wait_longer_is_obeyed() -> None:
    busy = RoundError("Slow down.", retryable=True)
    busy.retry_after = 120
    story = play(busy, see(1, "open"), see(1, "published", True))
    story.follow(1)
    assert story.waits[0] == 120


def test_a_line_lost_amidst_a_round_continues_that_round() -> None:
    story = play(
        see(1, "open"),
        AWAY,
        see(1, "open"),
        see(1, "published", True),
        refusals={1: [AWAY]},
    )
    assert story.follow(1).delivered == [1]
    assert story.acts == ["train 1", "train 1", "sync 1 and measure"]


@pytest.mark.parametrize("refusal", [PolicyRefusal, RoundError])
def test_a_round_that_cannot_be_taken_part_in_is_passed_by(
    refusal: Callable[[str], Exception],
) -> None:
    story = play(
        see(1, "open"),
        see(1, "open"),
        see(2, "open"),
        see(2, "published", True),
        refusals={1: [refusal("Not this one.")]},
    )
    assert story.follow(1).delivered == [2]
    assert story.acts == ["train 1", "sync 1", "train 2", "sync 2 and measure"]
    assert "Not this one. Waiting for the next round." in story.notes[0]


def test_what_no_waiting_mends_ends_it() -> None:
    with pytest.raises(IdentityError, match="revoked"):
        play(see(1, "open"), IdentityError("revoked")).follow()
    with pytest.raises(TransportError, match="certificate"):
        play(TransportError("certificate")).follow()


def test_a_round_that_an_earlier_run_delivered_is_not_trained_again() -> None:
    story = play(
        see(3, "open", True), see(3, "published", True), see(4, "open"), see(4, "published", True)
    )
    assert story.follow(1, synced=2).delivered == [4]
    assert story.acts == ["sync 3 and measure", "train 4", "sync 4 and measure"]


def test_no_further_round_is_begun_when_enough_are_delivered() -> None:
    story = play(see(1, "open"), see(2, "open"))
    story.follow(1)
    assert story.acts == ["train 1", "sync 1"]


def test_without_a_number_it_goes_on() -> None:
    with pytest.raises(OverlyPatient):
        play(*[see(1, "published")] * 100).follow()


def test_an_update_that_a_restored_coordinator_lost_is_delivered_again() -> None:
    story = play(
        see(1, "open"),
        see(1, "open", True),
        AWAY,
        see(1, "open"),
        see(1, "open", True),
        see(1, "published", True),
    )
    assert story.follow(1).delivered == [1]
    assert story.acts == ["train 1", "train 1", "sync 1 and measure"]
