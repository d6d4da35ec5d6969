"""A training from its first step to its last: what every engine's loop shares.

An engine computes gradients and moves the adapter; which examples come when, how a step is cut
into forward passes, what is written down and how a training goes on afterwards is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol

import numpy as np

from backends.backing_off import lowered, with_less_once
from backends.base import Example, ForwardPlan, Note, Progress, Resumed, TrainJob
from backends.batches import forward_passes, optimizer_steps
from backends.checkpoints import Checkpoints, TrainingState
from backends.memory import tightest
from backends.meter import Meter
from backends.schedule import learning_rate
from federation.errors import LossNotFinite


class NotFinite(Exception):
    """A ``what`` (loss or gradient) is NaN or infinite, through these rows of a forward pass."""

    def __init__(self, what: str, rows: Sequence[int]) -> None:
        super().__init__(what)
        self.what, self.rows = what, rows


class Engine(Protocol):
    """The adapter being trained: its factors, their gradients, the optimizer, random generators."""

    @property
    def forward(self) -> ForwardPlan:
        """How it cuts batches where the job does not say."""

    @property
    def threads(self) -> int:
        """What it computes with, 0 where it has no such number."""

    def adopt_threads(self, before: int) -> str:
        """Go on as a checkpoint was computed; a sentence for people where that is not so."""

    def begin_step(self) -> None:
        """No gradients yet; remember the random generators."""

    def restart_step(self) -> None:
        """Drop gradients, go back to the random generators of its beginning, free memory."""

    def backward(
        self, examples: Sequence[Example], n_completion: int, *, recompute: bool, place: int
    ) -> float:
        """Add the gradients of these examples' loss, divided by the step's ``n_completion``.

        ``place`` counts the training's forward passes: with the seed it decides what dropout
        drops, where an engine has no generator. Gives that loss. Raises NotFinite.
        """

    def update(self, rate: float) -> float:
        """Clip, and one step of AdamW; the gradients' norm before clipping."""

    def evaluate(self, examples: Sequence[Example], progress: Progress) -> None:
        """Report the examples' losses with dropout off; training goes on after it."""

    def capture(self, *, gradients: bool) -> dict[str, np.ndarray]:
        """All tensors that the rest depends on; gradients inside a step only."""

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Put back what ``capture`` gave."""

    def memory_errors(self, doing: str) -> AbstractContextManager[None]:
        """Turns "out of memory" into OutOfMemory."""


class Training:
    """One training under way; ``identity`` tells its checkpoints from those of others."""

    def __init__(
        self, engine: Engine, job: TrainJob, progress: Progress, identity: dict[str, str]
    ) -> None:
        self._engine, self._job, self._progress = engine, job, progress
        self._of = job.recipe.optimizer_steps(len(job.examples))
        self.meter = Meter(self._of)
        self._forward = job.forward or engine.forward
        self._lowered = False
        # Of the step under way: forward passes done, and their share of its mean loss.
        self._passes, self._loss = 0, 0.0
        self._identity = identity
        self._checkpoints: Checkpoints | None = None
        if job.checkpoints is not None:
            self._checkpoints = Checkpoints(job.checkpoints, identity, self._say)

    def run(self) -> None:
        """Every step that is not done yet."""
        self._resume()
        self._evaluate_if_due()
        done = self.meter.steps
        for batches in islice(optimizer_steps(self._job, skip=done), self._of - done):
            self._step(batches)
            self._evaluate_if_due()

    def _step(self, batches: list[tuple[int, ...]]) -> None:
        step = self.meter.steps
        rate = learning_rate(self._job.recipe, step, self._of)
        self._compute_gradients(batches)
        with self._engine.memory_errors(f"training step {step + 1}"):
            norm = self._engine.update(rate)
        event = self.meter.step(
            loss=self._loss,
            learning_rate=rate,
            grad_norm=norm,
            n_tokens=sum(len(self._job.examples[i].tokens) for batch in batches for i in batch),
        )
        self._passes, self._loss = 0, 0.0
        self._write_checkpoint(at_once=event.step == self._of)
        try:
            self._progress(event)
        except BaseException:
            # That is how a training is stopped: nothing of it shall be lost.
            self._write_checkpoint(at_once=True)
            raise

    def _compute_gradients(self, batches: list[tuple[int, ...]]) -> None:
        """All forward passes of the step; out of memory, once more with less at a time."""
        doing = f"training step {self.meter.steps + 1}"
        if self._passes == 0:
            self._engine.begin_step()

        def attempt() -> None:
            with self._engine.memory_errors(doing):
                self.accumulate(batches)

        def less() -> ForwardPlan | None:
            if self._lowered:
                return None
            passes = forward_passes(self._job.examples, batches, self._forward)
            return lowered(self._forward, self._job.examples, passes)

        def begin_again(plan: ForwardPlan) -> None:
            self._lowered, self._forward = True, plan
            self._restart_step()

        with_less_once(doing, attempt, less, begin_again, self._say)

    def accumulate(self, batches: list[tuple[int, ...]]) -> float:
        """Add up the gradients of the step's mean loss over all its completion tokens; returns it.

        Each forward pass is divided by the tokens of the whole step, so that the result does not
        depend on how the step is cut.
        """
        examples = self._job.examples
        n_completion = sum(examples[i].n_completion for batch in batches for i in batch)
        for indices in forward_passes(examples, batches, self._forward)[self._passes :]:
            self._loss += self._backward(indices, n_completion)
            self._passes += 1
            self._write_checkpoint()
        return self._loss

    def _backward(self, indices: Sequence[int], n_completion: int) -> float:
        """One forward and backward pass; its share of the step's mean loss."""
        step = self.meter.steps
        try:
            return self._engine.backward(
                [self._job.examples[index] for index in indices],
                n_completion,
                recompute=self._forward.recompute,
                place=(self._job.start_step + step << 32) + self._passes,
            )
        except NotFinite as error:
            named = tuple(sorted({indices[row] for row in error.rows}))
            raise LossNotFinite(
                f"The {error.what} of examples {list(named)} is not finite in training step "
                f"{step + 1}.",
                examples=named,
            ) from error

    def _evaluate_if_due(self) -> None:
        every, done = self._job.recipe.eval_every, self.meter.steps
        if not (every and done and done % every == 0 and self._job.held_out) or self._passes:
            return
        with self.meter.pause():
            self._engine.evaluate(self._job.held_out, self._progress)

    def _resume(self) -> None:
        found = self._checkpoints.newest() if self._checkpoints is not None else None
        if found is None:
            return
        checkpoint, path = found
        state = checkpoint.state
        self._engine.restore(checkpoint.tensors)
        self.meter.resume(state.step_losses, state.n_tokens, state.seconds)
        self._passes, self._loss = state.passes, state.partial_loss
        self._progress(Resumed(state.steps, self._of, str(path)))
        if note := self._engine.adopt_threads(state.threads):
            self._say(note)
        self._adopt_cut(state.forward)

    def _adopt_cut(self, before: ForwardPlan) -> None:
        """Half a step's gradients fit no other cut; less memory than before needs a finer one."""
        asked, self._forward = self._forward, before
        if self._job.forward is None or (finer := tightest(before, asked)) == before:
            return
        self._forward = finer
        self._restart_step()
        self._say("There is less memory than before: from here batches are cut finer.")

    def _restart_step(self) -> None:
        self._engine.restart_step()
        self._passes, self._loss = 0, 0.0

    def _write_checkpoint(self, *, at_once: bool = False) -> None:
        if self._checkpoints is None or not (at_once or self._checkpoints.due()):
            return
        state = TrainingState(
            job=self._identity,
            steps=self.meter.steps,
            passes=self._passes,
            partial_loss=self._loss,
            step_losses=self.meter.losses,
            n_tokens=self.meter.n_tokens,
            seconds=self.meter.seconds,
            forward=self._forward,
            threads=self._engine.threads,
        )
        self._checkpoints.write(state, self._engine.capture(gradients=self._passes > 0))

    def _say(self, text: str) -> None:
        self._progress(Note(text))
