"""Training: take part in a round, check it first, train locally, fetch the global adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message

from appliance.events import Event, Note, Phase, Sink
from appliance.local import LocalSettings
from appliance.state import ApplianceStatus
from backends.base import EvalStep, Resumed, TrainStep
from federation.errors import FedMedError
from tui.activity import Reading
from tui.messages import Happened, JobShown, StatusWanted
from tui.page import Page, from_worker
from tui.run_view import RunView
from tui.services import Services
from tui.summaries import Row, dry_run_rows, local_rows, round_rows, sync_rows
from tui.widgets.figures import Figures
from tui.widgets.loss_curve import LossCurve
from tui.widgets.offer import Offer
from tui.widgets.run_log import RunLog
from tui.widgets.run_outcome import RunOutcome
from tui.widgets.run_status import RunStatus, State
from tui.widgets.topbar import NavEntry
from tui.work import Done, End, Failed, Halted, Work

_DRAW_SECONDS = 0.2
"""A fast training makes hundreds of steps a second; drawing each would slow it down."""

Job = Callable[[Sink], Sequence[Row]]


class JobEnded(Message):
    """The work is over."""

    def __init__(self, end: End[Sequence[Row]]) -> None:
        self.end = end
        super().__init__()


class TrainPage(Page):
    """One piece of work at a time, in a worker; its events wait in a queue to be drawn."""

    PAGE_TITLE = "Train"
    PLACE = 2
    PURPOSE = (
        "Take part in the open round of the federation, or train on this hospital's data alone, "
        "and watch it. Only the sealed update of a round leaves here."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "take_part", "Take part", tooltip="Train in the open round and deliver"),
        Binding("c", "check", "Check", tooltip="What the open round needs and sends; no change"),
        Binding("l", "local", "Local", tooltip="Train the local adapter on this hospital's data"),
        Binding("g", "fetch", "Fetch", tooltip="Fetch, verify and measure the newest adapter"),
        Binding("x", "stop", "Stop", tooltip="End the work at its next step; it can start again"),
    ]
    AUTO_FOCUS = ""
    VERTICAL_BREAKPOINTS = [(0, "-short"), (30, "-tall"), (38, "-taller")]  # noqa: RUF012  not a ClassVar there
    CSS = """
    TrainPage { overflow: hidden; }
    TrainPage #run { height: auto; }
    TrainPage LossCurve { height: 2fr; }
    TrainPage.-tall Figures, TrainPage.-taller Figures { margin-top: 1; }
    TrainPage.-tall Offer, TrainPage.-taller Offer { margin: 1 0; }
    TrainPage.-checked LossCurve { display: none; }
    TrainPage.-short.-checked RunOutcome { max-height: 1fr; }
    TrainPage.-short.-ended RunLog, TrainPage.-short.-ended Figures { display: none; }
    TrainPage.-tall.-ended RunLog { display: none; }
    TrainPage.-tall.-checked RunLog { display: block; }
    """

    def __init__(self, services: Services, entries: Sequence[NavEntry], mode: str) -> None:
        super().__init__(services, entries, mode)
        self._job: Work[Event] | None = None
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._title = ""
        self._view = RunView()

    def body(self) -> ComposeResult:
        """The offer, the run with its numbers, result or error, curve, log."""
        yield Offer()
        with Vertical(id="run", classes="panel") as run:
            run.border_title = "Run"
            yield RunStatus()
            yield Figures()
        yield RunOutcome()
        yield LossCurve()
        yield RunLog()

    def on_mount(self) -> None:
        """Follow the application's readings: they say which round is open."""
        self.watch(self.app, "status", self._show_status)
        self._watching = self.set_interval(_DRAW_SECONDS, self._take_events, pause=True)

    def _show_status(self, reading: Reading) -> None:
        self.query_one(Offer).reading = reading

    @property
    def working(self) -> bool:
        """Whether a training runs."""
        return self._job is not None and self._job.running

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only one piece of work at a time; only running work can be stopped."""
        if action == "stop":
            return True if self._job else None
        if action in ("take_part", "check", "local", "fetch"):
            return None if self._job else True
        return True

    def action_take_part(self) -> None:
        """Take part in the newest round; the service says so if it is not open."""
        if number := self._round():
            self._start(
                f"Round {number}", lambda sink: round_rows(self.services.take_part(number, sink))
            )

    def action_check(self) -> None:
        """Show what taking part would mean."""
        if number := self._round():
            self._start(
                f"Check of round {number}", lambda _: dry_run_rows(self.services.dry_run(number))
            )

    def action_local(self) -> None:
        """Train the local adapter with the recipe's defaults."""
        self._start(
            "Local training",
            lambda sink: local_rows(self.services.train_local(LocalSettings(), sink)),
        )

    def action_fetch(self) -> None:
        """Fetch the newest global adapter."""
        self._start("Global adapter", lambda sink: sync_rows(self.services.sync(sink)))

    def action_stop(self) -> None:
        """Ask the work to end at its next event."""
        self.stop_work()

    def stop_work(self) -> None:
        """Ask the work, if there is any, to end."""
        if self._job:
            self._job.stop()
            self._show_state("stopping")
            self.query_one(RunLog).note("Stopping at the next step …")

    def _round(self) -> int | None:
        reading = self.query_one(Offer).reading
        if isinstance(reading, ApplianceStatus) and reading.round:
            return reading.round
        self.notify("No round is known: see the line above the run.", severity="warning")
        return None

    def _start(self, title: str, job: Job) -> None:
        self._job = Work[Event](self._events.put)
        self._watching.resume()
        self._title, self._view = title, RunView()
        self.query_one(LossCurve).clear()
        self._show_outcome(None)
        self.query_one(RunStatus).run_title = title
        self._show_view()
        self._show_state("running")
        self.query_one(RunLog).note(f"{title} started.")
        self.post_message(Happened(f"{title} started."))
        self._run(self._job, job)

    @work(thread=True, group="job")
    def _run(self, running: Work[Event], job: Job) -> None:
        self.post_message(JobEnded(running.run(job)))

    def _take_events(self) -> None:
        """Show what the worker reported since the last time."""
        if self.leaving:
            return
        while not self._events.empty():
            self._take(self._events.get())
        self._show_view()

    def _take(self, event: Event) -> None:
        before = self._view
        self._view = before.after(event)
        log, curve = self.query_one(RunLog), self.query_one(LossCurve)
        match event:
            case Phase():
                log.note(f"{event.name} {event.detail}".strip())
            case Note():
                log.note(event.text)
            case Resumed():
                log.note(f"going on after step {event.step}, from {event.checkpoint}")
            case TrainStep():
                curve.add(event.step, event.of, event.loss)
            case EvalStep() if len(self._view.held_out) > len(before.held_out):
                curve.add_held_out(self._view.step, event.loss)
                log.note(f"held-out loss {event.loss:.3f} after step {self._view.step}")

    @from_worker
    def on_job_ended(self, message: JobEnded) -> None:
        """Show how the work ended; another can start."""
        self._take_events()
        self._job = None
        self._watching.pause()
        match message.end:
            case Done(value=rows):
                self._show_outcome(rows)
                self._end("done", "finished.")
            case Halted():
                at = f" at step {self._view.step}" if self._view.step else ""
                self._end("stopped", f"stopped{at}. It can be started again.")
            case Failed(error=error):
                self._show_outcome(error)
                self._end("failed", f"failed: {error}")

    def _show_outcome(self, outcome: Sequence[Row] | FedMedError | None) -> None:
        """A small screen has no room for curve, log and outcome: what is empty gives way."""
        self.query_one(RunOutcome).outcome = outcome
        self.set_class(outcome is not None, "-ended")
        drawn = bool(self.query_one(LossCurve).losses)
        self.set_class(outcome is not None and not drawn, "-checked")

    def _end(self, state: State, text: str) -> None:
        if state == "stopped":
            self.query_one(RunStatus).run_title = f"{self._title} {text}"
        self._show_state(state)
        self.query_one(RunLog).note(f"{self._title} {text}")
        self.post_message(Happened(f"{self._title} {text}"))
        self.post_message(JobShown(""))
        self.post_message(StatusWanted())

    def _show_state(self, state: State) -> None:
        self.query_one(RunStatus).state = state
        self.refresh_bindings()

    def _show_view(self) -> None:
        self.query_one(RunStatus).view = self._view
        self.query_one(Figures).view = self._view
        if self._job:
            far = f" {self._view.done}/{self._view.of}" if self._view.of else ""
            self.post_message(JobShown(f"{self._view.phase or 'starting'}{far}"))


PAGE = TrainPage
