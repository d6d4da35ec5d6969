"""The training loop: set up, go on from a checkpoint, step after step, report."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from itertools import islice

import torch
from transformers import PreTrainedModel

from backends.base import ForwardPlan, Note, Progress, Resumed, TrainJob, TrainResult
from backends.batches import check_examples, forward_passes, optimizer_steps
from backends.checkpoints import Checkpoints, TrainingState
from backends.cuda.allocator import release_memory
from backends.cuda.errors import memory_errors
from backends.cuda.evaluation import evaluate
from backends.cuda.forward import make_batch, token_losses
from backends.cuda.lora import Lora
from backends.cuda.memory import peak_memory, reset_peak_memory
from backends.cuda.probe import FORWARD_TOKENS
from backends.cuda.recompute import recomputing
from backends.cuda.resuming import capture, random_states, restore, set_random_states
from backends.memory import lowered, tightest
from backends.meter import Meter
from backends.schedule import learning_rate
from federation.errors import LossNotFinite, OutOfMemory


def train(
    model: PreTrainedModel,
    lora: Lora,
    job: TrainJob,
    progress: Progress,
    identity: dict[str, str],
    *,
    keep_threads: bool,
) -> TrainResult:
    """Train ``lora`` in place; see ``LoadedModel.train``.

    ``identity`` tells this training's checkpoints from others'. Unless ``keep_threads``, it goes
    on with the number of threads that a checkpoint was computed with.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    check_examples(job.examples, context)
    check_examples(job.held_out, context)
    torch.manual_seed(job.recipe.seed + job.start_step)
    reset_peak_memory()
    try:
        training = _Training(model, lora, job, progress, identity, keep_threads)
        training.run()
    finally:
        lora.stop_training()
    return training.meter.result(peak_memory())


class _Training:
    """One training under way."""

    def __init__(
        self,
        model: PreTrainedModel,
        lora: Lora,
        job: TrainJob,
        progress: Progress,
        identity: dict[str, str],
        keep_threads: bool,
    ) -> None:
        self._model, self._lora, self._job, self._progress = model, lora, job, progress
        self._of = job.recipe.optimizer_steps(len(job.examples))
        self._parameters = lora.start_training(job.factors)
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=job.recipe.learning_rate, weight_decay=job.recipe.weight_decay
        )
        self.meter = Meter(self._of)
        self._forward = job.forward or ForwardPlan(FORWARD_TOKENS[model.device.type])
        self._lowered = False
        # Of the step under way: forward passes done, and their share of its mean loss.
        self._passes, self._loss = 0, 0.0
        self._identity, self._keep_threads = identity, keep_threads
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
        with memory_errors(f"training step {step + 1}"):
            norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._job.recipe.max_grad_norm)
            self._optimizer.param_groups[0]["lr"] = rate
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=False)
        event = self.meter.step(
            loss=self._loss,
            learning_rate=rate,
            grad_norm=norm.item(),
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
        random = random_states(self._model.device)
        try:
            with memory_errors(doing):
                self._accumulate(batches)
            return
        except OutOfMemory:
            passes = forward_passes(self._job.examples, batches, self._forward)
            less = lowered(self._forward, self._job.examples, passes)
            if self._lowered or less is None:
                raise
        # Only here is the error gone, and with it the tensors that its traceback held.
        self._lowered, self._forward = True, less
        self._begin_step_again()
        gc.collect()
        release_memory()
        set_random_states(random, self._model.device)
        self._say(
            f"Out of memory while {doing}. It is repeated with at most {less.tokens} tokens in a "
            f"forward pass{' and activations recomputed' if less.recompute else ''}: the same "
            "gradients, in more time."
        )
        with memory_errors(doing):
            self._accumulate(batches)

    def _accumulate(self, batches: list[tuple[int, ...]]) -> None:
        """Add up the gradients of the step's mean loss over all its completion tokens.

        Each forward pass is divided by the tokens of the whole step, so that the result does not
        depend on how the step is cut.
        """
        examples = self._job.examples
        n_completion = sum(examples[i].n_completion for batch in batches for i in batch)
        for indices in forward_passes(examples, batches, self._forward)[self._passes :]:
            self._loss += self._backward(indices, n_completion)
            self._passes += 1
            self._write_checkpoint()

    def _backward(self, indices: Sequence[int], n_completion: int) -> float:
        """One forward and backward pass; its share of the step's mean loss."""
        batch = make_batch([self._job.examples[index] for index in indices], self._model.device)
        with recomputing(self._model, wanted=self._forward.recompute):
            losses = token_losses(self._model, batch)
        loss = losses.sum() / n_completion
        if not torch.isfinite(loss):
            bad = {indices[row] for row in batch.owners[~losses.isfinite()].tolist()}
            raise self._diverged("loss", bad or set(indices))
        loss.backward()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not math.isfinite(torch.nn.utils.get_total_norm(gradients).item()):
            raise self._diverged("gradient", set(indices))
        return loss.item()

    def _diverged(self, what: str, examples: set[int]) -> LossNotFinite:
        named = tuple(sorted(examples))
        return LossNotFinite(
            f"The {what} of examples {list(named)} is not finite in training step "
            f"{self.meter.steps + 1}.",
            examples=named,
        )

    def _evaluate_if_due(self) -> None:
        every, done = self._job.recipe.eval_every, self.meter.steps
        if not (every and done and done % every == 0 and self._job.held_out) or self._passes:
            return
        with self.meter.pause():
            self._lora.stop_training()
            evaluate(self._model, self._job.held_out, self._progress)
            self._lora.start_training(self._job.factors)

    def _resume(self) -> None:
        found = self._checkpoints.newest() if self._checkpoints is not None else None
        if found is None:
            return
        checkpoint, path = found
        state = checkpoint.state
        restore(checkpoint.tensors, self._lora, self._optimizer)
        self.meter.resume(state.step_losses, state.n_tokens, state.seconds)
        self._passes, self._loss = state.passes, state.partial_loss
        self._progress(Resumed(state.steps, self._of, str(path)))
        self._adopt_threads(state.threads)
        self._adopt_cut(state.forward)

    def _adopt_threads(self, before: int) -> None:
        """Another number of threads adds in another order: only where a person asked for it."""
        now = torch.get_num_threads()
        if not self._keep_threads:
            torch.set_num_threads(before)
        elif now != before:
            self._say(
                f"Computed with {before} threads until here and with {now} from here, as asked: "
                "the result may differ in its last digits."
            )

    def _adopt_cut(self, before: ForwardPlan) -> None:
        """Half a step's gradients fit no other cut; less memory than before needs a finer one."""
        asked, self._forward = self._forward, before
        if self._job.forward is None or (finer := tightest(before, asked)) == before:
            return
        self._forward = finer
        self._begin_step_again()
        self._say("There is less memory than before: from here batches are cut finer.")

    def _begin_step_again(self) -> None:
        self._optimizer.zero_grad()
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
            threads=torch.get_num_threads(),
        )
        tensors = capture(self._lora, self._optimizer, gradients=self._passes > 0)
        self._checkpoints.write(state, tensors)

    def _say(self, text: str) -> None:
        self._progress(Note(text))
