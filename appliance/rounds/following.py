"""``appliance train --follow``: every round as it opens, every published adapter as it comes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance import adapters
from appliance.context import Context
from appliance.events import Note, Sink
from appliance.rounds.overrides import Wishes
from appliance.rounds.participation import RoundOutcome, take_part
from appliance.rounds.sync import sync
from appliance.session import open_session
from federation.errors import FedMedError, PolicyRefusal, RoundError
from federation.messages import CurrentRound

_LONGEST_PAUSE = 15.0
_LONGEST_RETRY = 60.0
_FINISHED = ("published", "aborted")


@dataclass(frozen=True)
class Steps:
    """What following does, one call at a time; each may be repeated.

    ``sync`` gets a finished round's number, and whether to measure its adapter here.
    """

    current: Callable[[], CurrentRound]
    take_part: Callable[[int], object]
    sync: Callable[[int, bool], object]


@dataclass
class Follower:
    """Follows a federation from round ``synced`` + 1 on.

    Waits between looks are short after something happened and grow to 15 s, those after a lost
    line to a minute; all are shortened at random, so that hospitals do not come all at once.
    """

    steps: Steps
    sink: Sink
    synced: int = 0
    sleep: Callable[[float], None] = time.sleep
    delivered: list[int] = field(default_factory=list)
    _passed: set[int] = field(default_factory=set)
    _said: str = ""

    def follow(self, rounds: int | None = None) -> None:
        """Go on until ``rounds`` were delivered from here and the last is over; None: for ever.

        A round that the policy forbids or that does not take this hospital is passed by. Raises
        the first error that neither waiting nor the next round mends.
        """
        quiet = lost = 0
        while True:
            try:
                current = self.steps.current()
                moved = self._step(current, more=rounds is None or len(self.delivered) < rounds)
            except FedMedError as error:
                if not error.retryable:
                    raise
                pause = max(_pause(lost, _LONGEST_RETRY), error.retry_after)
                self.sink(Note(f"{error} Looking again in {pause:.0f} s."))
                self._said = ""
                lost += 1
            else:
                if rounds and len(self.delivered) >= rounds and self.synced >= self.delivered[-1]:
                    return
                if not moved:
                    self._say(_waiting(current))
                quiet, lost = (0 if moved else quiet + 1), 0
                pause = _pause(quiet, _LONGEST_PAUSE)
            self.sleep(pause)

    def _step(self, current: CurrentRound, *, more: bool) -> bool:
        """Do what is to be done now; whether that was anything."""
        number = current.round
        finished = number if current.state in _FINISHED else number - 1
        moved = False
        if finished > self.synced:
            self._sync(finished, evaluate=finished == number)
            moved = True
        if current.state != "open" or current.delivered or number in self._passed:
            return moved
        if number in self.delivered:
            # A coordinator that was restored from a backup has lost the update: it gets it again.
            self._take_part(number)
        elif more:
            self._take_part(number)
            moved = True
        return moved

    def _take_part(self, number: int) -> None:
        try:
            self.steps.take_part(number)
        except (RoundError, PolicyRefusal) as error:
            if error.retryable:
                raise
            self.sink(Note(f"{error} Waiting for the next round. {error.hint}"))
            self._passed.add(number)
        else:
            if number not in self.delivered:
                self.delivered.append(number)

    def _sync(self, number: int, *, evaluate: bool) -> None:
        try:
            self.steps.sync(number, evaluate)
        except RoundError as error:
            if error.retryable:
                raise
            self.sink(Note(str(error)))
        self.synced = number

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self.sink(Note(text))


def _pause(count: int, longest: float) -> float:
    return float(min(longest, 2.0 ** min(count, 10)) * random.uniform(0.5, 1.0))


def _waiting(current: CurrentRound) -> str:
    if current.round == 0:
        return "Waiting for the first round."
    if current.state in _FINISHED:
        return f"Waiting for the next round: round {current.round} is {current.state}."
    done = "; this hospital has delivered" if current.delivered else ""
    return f"Waiting for the end of round {current.round}, which is {current.state}{done}."


def follow(
    context: Context,
    sink: Sink,
    report: Callable[[RoundOutcome], None],
    *,
    rounds: int | None = None,
    wishes: Wishes,
) -> None:
    """Follow this hospital's federation; ``report`` is called after each round delivered.

    Ends as ``Follower.follow`` says; KeyboardInterrupt ends it at
    any time, and whatever was begun is continued by the next run.
    """
    with open_session(context) as session:
        steps = Steps(
            current=session.client.current,
            take_part=lambda number: report(take_part(context, number, sink, wishes)),
            sync=lambda number, evaluate: sync(context, sink, number=number, evaluate=evaluate),
        )
        here = adapters.global_rounds(context.paths)
        Follower(steps, sink, synced=max(here, default=0)).follow(rounds)
