from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import pytest

from appliance.events import Note, Phase, Transfer
from backends.base import EvalStep
from federation.errors import BackendError, IdentityError
from tests.unit.tui.making import METADATA, PLAN, STATUS, outcome, step
from tui import formats, summaries
from tui.activity import Entry, changes
from tui.run_view import RunView
from tui.text import clean, plain
from tui.work import Done, Failed, Halted, Work


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (0.2, "0:01"), (59.5, "1:00"), (3599.1, "1:00:00"), (7325, "2:02:05")],
)
def test_a_duration_reaches_zero_only_at_the_end(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf])
def test_a_duration_that_is_not_known_is_a_dash(nothing: float | None) -> None:
    assert formats.duration(nothing) == "–"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0.0 kB"), (900, "0.9 kB"), (4_200_000, "4.2 MB"), (25_300_000_000, "25.3 GB")],
)
def test_sizes(n_bytes: int, text: str) -> None:
    assert formats.size(n_bytes) == text


def test_rates_and_losses() -> None:
    assert (formats.rate(None), formats.rate(3.26), formats.rate(1234.5)) == ("–", "3.3", "1,234")
    assert (formats.loss(None), formats.loss(2.8126)) == ("–", "2.813")


def test_text_from_elsewhere_cannot_control_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\u202ec\nd\te") == "a[31mbc\nd   e"


def test_text_from_elsewhere_is_not_read_as_markup() -> None:
    assert plain("[red]x[/red]", "bold").plain == "[red]x[/red]"


def test_a_view_follows_the_events_of_a_run() -> None:
    view = RunView()
    for event in (
        Phase("evaluating", "before"),
        EvalStep(10, 32, 3.0),
        EvalStep(32, 32, 3.29),
        Phase("training", "north"),
    ):
        view = view.after(event)
    assert (view.phase, view.detail, view.unit, view.of) == ("training", "north", "Step", 0)
    assert view.held_out == (3.29,)
    view = view.after(step(2, 8))
    assert (view.done, view.of, view.step) == (2, 8, 2)
    assert (view.loss, view.tokens_per_second) == (3.75, 178.4)
    assert view.seconds_left == pytest.approx(367.2)
    view = view.after(Phase("uploading")).after(Transfer("sent", 5, 10))
    assert (view.unit, view.done, view.of, view.seconds_left) == ("Bytes", 5, 10, None)
    assert view.step == 2
    assert view.after(Note("hello")) == view


def test_the_first_status_says_how_things_stand() -> None:
    assert changes(None, STATUS) == ["The coordinator answers.", "Round 3 is open."]


def test_the_same_status_is_no_news() -> None:
    later = replace(STATUS, bytes_received=5000)
    assert changes(STATUS, later) == []


def test_changes_of_round_connection_and_adapters_are_news() -> None:
    later = replace(
        STATUS, coordinator="does not answer: no route.", round_state="closed", global_rounds=(0, 3)
    )
    assert changes(STATUS, later) == [
        "The coordinator does not answer: no route.",
        "Round 3 is closed.",
        "The global adapter of round 3 is here.",
    ]


def test_an_error_is_news_once() -> None:
    error = IdentityError("Not enrolled.")
    assert changes(None, error) == ["Not enrolled."]
    assert changes(error, IdentityError("Not enrolled.")) == []
    assert changes(error, STATUS) != []


def test_an_entry_keeps_its_time() -> None:
    assert Entry(datetime(2026, 11, 22, 7), "x").when.hour == 7


def test_work_gives_what_the_service_returned() -> None:
    seen: list[int] = []

    def service(report: Callable[[int], None]) -> str:
        report(1)
        return "ok"

    work = Work[int](seen.append)
    assert work.running
    assert work.run(service) == Done("ok")
    assert seen == [1]
    assert not work.running


def test_work_that_is_stopped_ends_at_its_next_event() -> None:
    seen: list[int] = []
    work = Work[int](seen.append)

    def service(report: Callable[[int], None]) -> None:
        report(1)
        work.stop()
        report(2)
        report(3)

    assert work.run(service) == Halted()
    assert seen == [1]
    assert work.stopping
    assert not work.running


def test_work_gives_the_services_error() -> None:
    error = BackendError("Out of memory.")

    def service(report: Callable[[int], None]) -> None:
        raise error

    assert Work[int](print).run(service) == Failed(error)


def test_an_unexpected_error_passes_but_ends_the_work() -> None:
    work = Work[int](print)

    def service(report: Callable[[int], None]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work.run(service)
    assert not work.running


def test_summaries_say_what_left_the_hospital() -> None:
    rows = dict(summaries.round_rows(outcome(3)))
    assert rows["Held-out loss"] == "3.290 → 3.098"
    assert rows["Sent"] == "13.9 kB, 1.39% of the base model"
    assert rows["Training"] == "8 steps, 2,950 tokens, 0:23"


def test_a_dry_run_says_when_memory_may_not_do() -> None:
    rows = dict(summaries.dry_run_rows(PLAN))
    assert rows["Memory"] == "4.2 GB of 9.0 GB free"
    assert rows["Leaves here"] == ", ".join(PLAN.leaves)
    assert "loss_before" in rows["Leaves here"]


def test_local_training_is_summarised() -> None:
    assert dict(summaries.local_rows(METADATA))["Held-out loss"] == "3.290 → 3.098"
