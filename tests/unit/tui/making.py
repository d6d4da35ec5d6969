"""What the tests of the screens are made of: real values, and services that run in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from textual.app import App
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import Static

from appliance.doctor import Check
from appliance.events import Note, Phase, Sink, Transfer
from appliance.local import LocalSettings
from appliance.rounds.dry_run import DryRun
from appliance.rounds.participation import RoundOutcome
from appliance.rounds.sync import SyncOutcome
from appliance.safety import GuardEvent, Guardrails
from appliance.state import ApplianceStatus, LocalRound
from appliance.training import TrainingMetadata
from backends.base import ChatMessage, EvalStep, ForwardPlan, Token, TrainStep
from backends.estimate import Estimate
from backends.planning import MachinePlan
from federation.errors import InputError, RoundError
from federation.messages import BaseReference, Receipt
from federation.recipe import TrainingRecipe
from tui.services import Services

STATUS = ApplianceStatus(
    federation="gastro-net",
    hospital="north",
    url="https://coordinator.example:8443",
    fingerprint="AAAA-BBBB-CCCC-DDDD-EEEE",
    round=3,
    round_state="open",
    delivered=False,
    coordinator="answers",
    exit_code=0,
    rounds=(LocalRound(1, "delivered", 3.54, 2.95), LocalRound(2, "descriptor", None, None)),
    global_rounds=(0, 1, 2),
    bytes_sent=4_200_000,
    bytes_received=900,
)
CHECKS = (
    Check("python", "ok", "3.11"),
    Check("disk", "warning", "2 GB free", "Free some space."),
    Check("training data", "problem", "No training data has been imported.", "Import some."),
)
METADATA = TrainingMetadata(
    origin="round 3, hospital north",
    base=BaseReference(name="tiny", sha256="a" * 64, n_bytes=1_000_000),
    adapter_sha256="b" * 64,
    parent_sha256="c" * 64,
    recipe=TrainingRecipe(),
    factors="AB",
    n_train=345,
    n_held_out=32,
    loss_before=3.29,
    loss_after=3.098,
    train_loss=3.0,
    loss_variance=0.01,
    steps=8,
    n_tokens=2950,
    seconds=22.4,
    peak_memory_bytes=0,
    engine="torch 2.13.0",
    quantisation="none",
    started_at=0.0,
    finished_at=22.4,
)
PLAN = DryRun(
    round=3,
    base="tiny",
    backend="cuda",
    reason="the only one",
    n_train=345,
    n_held_out=55,
    steps=8,
    aggregator="fedavg",
    rank=8,
    factors="AB",
    memory_needed=4_200_000_000,
    memory_free=9_000_000_000,
    machine=MachinePlan(
        quantisation="none",
        forward=ForwardPlan(1024),
        needed=Estimate(
            runtime=400_000_000,
            weights=800_000_000,
            adapter=0,
            activations=2_500_000_000,
            logits=500_000_000,
            other=0,
        ),
        free=9_000_000_000,
    ),
    metrics=("loss_before",),
    deadline=1_800_000_000,
)


def outcome(number: int) -> RoundOutcome:
    """A round that was delivered."""
    receipt = Receipt(
        federation="gastro-net",
        round=number,
        hospital="north",
        upload_id="0123456789abcdef" * 2,
        body_sha256="d" * 64,
        accepted=True,
        reason="",
        received_at=1_700_000_000,
    )
    return RoundOutcome(number, receipt, METADATA, Path("/rounds/0003"), 13_900, 50)


def step(number: int, of: int) -> TrainStep:
    """One training step whose loss falls."""
    return TrainStep(number, of, 4.0 - number / of, 1e-3, 0.5, 100, 178.4, 61.2 * (of - number))


class Training:
    """A round in memory: reports as the real one does, ends when its sink raises."""

    def __init__(self, steps: int = 5, pause: float = 0.0) -> None:
        self.steps = steps
        self.pause = pause
        self.runs = 0
        self.interrupted = 0

    def __call__(self, number: int, sink: Sink) -> RoundOutcome:
        self.runs += 1
        try:
            sink(Phase("checking", f"round {number}"))
            sink(Phase("evaluating", "before"))
            sink(EvalStep(16, 32, 3.1))
            sink(EvalStep(32, 32, 3.29))
            sink(Phase("training", "north"))
            for done in range(1, self.steps + 1):
                time.sleep(self.pause)
                sink(step(done, self.steps))
                if done == 4:
                    sink(EvalStep(32, 32, 3.2))
            sink(Phase("evaluating", "after"))
            sink(EvalStep(32, 32, 3.098))
            sink(Phase("uploading"))
            sink(Note("The connection was lost. Trying again in 1 s."))
            sink(Transfer("sent", 13_900, 13_900))
            sink(Phase("done", "delivered"))
        except Exception:
            self.interrupted += 1
            raise
        return outcome(number)


class ScriptedAssistant:
    """Answers with the given tokens behind the real guardrails; ``gates`` hold the stream back.

    A token that is a ``threading.Event`` is waited for. Counts how often it loaded its model.
    """

    def __init__(self, *tokens: str | threading.Event, probability: float = 0.5) -> None:
        self.tokens: Iterable[str | threading.Event] = tokens
        self.probability = probability
        self.asked: list[Sequence[ChatMessage]] = []
        self.loads = 0
        self.closed = 0
        self.choice = "base"
        self._sink: Sink | None = None

    def made_with(self, sink: Sink) -> ScriptedAssistant:
        """Stands in for the constructor."""
        self._sink = sink
        return self

    def use(self, choice: str) -> None:
        if choice == "local":
            raise InputError("There is no local adapter here yet.", hint="Train one.")
        self.choice = choice

    def answer(self, conversation: Sequence[ChatMessage]) -> Generator[GuardEvent, None, None]:
        self.asked.append(conversation)
        yield from Guardrails().guard(conversation[-1]["content"], self._stream())

    def _stream(self) -> Iterator[Token]:
        if not self.loads:
            self.loads += 1
            assert self._sink is not None
            self._sink(Phase("loading", "tiny on cuda"))
        try:
            for token in self.tokens:
                if isinstance(token, threading.Event):
                    assert token.wait(10)
                else:
                    yield Token(token, self.probability)
        finally:
            self.closed += 1


def no_sync(sink: Sink) -> SyncOutcome:
    """Nothing was published yet."""
    sink(Phase("checking", "published rounds"))
    raise RoundError("No round has finished yet.", hint="`appliance status` shows the round.")


def no_local(settings: LocalSettings, sink: Sink) -> TrainingMetadata:
    """Local training that is done at once."""
    sink(step(1, 1))
    return METADATA


SERVICES = Services(
    status=lambda: STATUS,
    examine=lambda: CHECKS,
    adapter_choices=lambda: ("base", "global", "round:0", "round:1", "round:2"),
    take_part=Training(),
    dry_run=lambda number: replace(PLAN, round=number),
    train_local=no_local,
    sync=no_sync,
    assistant=ScriptedAssistant("Good. ", "Bye.").made_with,
)


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Let the application work until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so: {text_of(pilot.app.screen)}"
        await pilot.pause(0.02)


def text_of(widget: Widget) -> str:
    """All static text that is displayed below a widget."""
    texts = [w for w in widget.query(Static) if all(x.display for x in w.ancestors_with_self)]
    return "\n".join(str(text.render()) for text in texts)


def shown(app: App[None]) -> str:
    """All static text on the present screen."""
    return text_of(app.screen)
