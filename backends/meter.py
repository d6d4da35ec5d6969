"""Counts a training's tokens and time, for progress and result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backends.base import TrainResult, TrainStep


class Meter:
    """Collects one line a step; ``clock`` gives seconds and is injected in tests.

    Speed counts the seconds of training steps only, time left also those of evaluations; both
    only since this process began or went on with the training.
    """

    def __init__(self, of: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._of = of
        self._clock = clock
        self._start = clock()
        self._elsewhere = 0.0
        self.n_tokens = 0
        self._losses: list[float] = []
        self._before = (0, 0, 0.0)

    @property
    def steps(self) -> int:
        """How many steps are done."""
        return len(self._losses)

    @property
    def losses(self) -> tuple[float, ...]:
        """The mean loss of each step so far, in nats a completion token."""
        return tuple(self._losses)

    @property
    def seconds(self) -> float:
        """How long the training took so far, evaluations and former processes included."""
        return self._before[2] + self._clock() - self._start

    def resume(self, losses: tuple[float, ...], n_tokens: int, seconds: float) -> None:
        """Count on from these steps of a former process."""
        self._losses, self.n_tokens = list(losses), n_tokens
        self._before = (len(losses), n_tokens, seconds)
        self._start = self._clock()

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens inside does not count as training."""
        start = self._clock()
        yield
        self._elsewhere += self._clock() - start

    def step(
        self, *, loss: float, learning_rate: float, grad_norm: float, n_tokens: int
    ) -> TrainStep:
        """Count one optimizer step."""
        self._losses.append(loss)
        self.n_tokens += n_tokens
        steps_before, tokens_before, _ = self._before
        elapsed, done = self._clock() - self._start, len(self._losses)
        return TrainStep(
            step=done,
            of=self._of,
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            n_tokens=n_tokens,
            tokens_per_second=(self.n_tokens - tokens_before)
            / max(elapsed - self._elsewhere, 1e-9),
            seconds_left=elapsed / (done - steps_before) * (self._of - done),
        )

    def result(self, peak_memory_bytes: int) -> TrainResult:
        """What the whole training did."""
        return TrainResult(
            steps=len(self._losses),
            step_losses=self.losses,
            n_tokens=self.n_tokens,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes,
        )
