"""What is known of the work in progress: one value, made from the one before and an event."""

from __future__ import annotations

from dataclasses import dataclass, replace

from appliance.events import Event, Phase, Transfer
from backends.base import EvalStep, Resumed, TrainStep


@dataclass(frozen=True)
class RunView:
    """Progress of one piece of work.

    ``done`` and ``of`` count ``unit``; ``of`` is 0 while it is unknown. ``held_out`` has the
    held-out losses in the order in which they were measured, in nats a token.
    """

    phase: str = ""
    detail: str = ""
    unit: str = "Step"
    done: int = 0
    of: int = 0
    step: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    held_out: tuple[float, ...] = ()

    def after(self, event: Event) -> RunView:
        """What is known after this event."""
        match event:
            case Phase():
                return replace(
                    self,
                    phase=event.name,
                    detail=event.detail,
                    unit="Step",
                    done=0,
                    of=0,
                    seconds_left=None,
                )
            case Resumed():
                return replace(self, unit="Step", done=event.step, of=event.of, step=event.step)
            case TrainStep():
                return replace(
                    self,
                    unit="Step",
                    done=event.step,
                    of=event.of,
                    step=event.step,
                    loss=event.loss,
                    tokens_per_second=event.tokens_per_second,
                    seconds_left=event.seconds_left,
                )
            case EvalStep():
                measured = (event.loss,) if event.done == event.of else ()
                return replace(
                    self,
                    unit="Example",
                    done=event.done,
                    of=event.of,
                    held_out=self.held_out + measured,
                )
            case Transfer():
                return replace(self, unit="Bytes", done=event.done, of=event.of)
        return self
