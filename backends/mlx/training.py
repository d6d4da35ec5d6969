"""The training loop: set up, step after step, report."""

from __future__ import annotations

import math
from contextlib import ExitStack
from itertools import islice

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from backends.base import ForwardPlan, Progress, TrainJob, TrainResult
from backends.batches import forward_passes, optimizer_steps
from backends.meter import Meter
from backends.mlx.errors import memory_errors
from backends.mlx.evaluation import evaluate
from backends.mlx.forward import make_batch
from backends.mlx.head import Head
from backends.mlx.lora import Lora
from backends.mlx.memory import peak_memory, reset_peak_memory
from backends.mlx.probe import FORWARD_TOKENS, device
from backends.mlx.recompute import recomputing
from backends.mlx.step import Step
from backends.schedule import learning_rate
from federation.errors import LossNotFinite


def train(
    model: nn.Module, head: Head, lora: Lora, job: TrainJob, progress: Progress
) -> TrainResult:
    """Train ``lora`` in place; see ``LoadedModel.train``."""
    recipe, of = job.recipe, job.recipe.optimizer_steps(len(job.examples))
    plan = job.forward or ForwardPlan(FORWARD_TOKENS[device()])
    reset_peak_memory()
    step, meter = Step(head, lora, job.factors, recipe), Meter(of)
    for index, batches in enumerate(islice(optimizer_steps(job), of)):
        passes = forward_passes(job.examples, batches, plan)
        with ExitStack() as stack:
            stack.enter_context(memory_errors(f"training step {index + 1}"))
            if plan.recompute:
                stack.enter_context(recomputing(model, lora))
            loss = _accumulate(step, job, passes, index)
        rate = learning_rate(recipe, index, of)
        norm = _finite_norm(step, index)
        step.update(rate, norm)
        n_tokens = sum(len(job.examples[i].tokens) for rows in passes for i in rows)
        progress(meter.step(loss=loss, learning_rate=rate, grad_norm=norm, n_tokens=n_tokens))
        if recipe.eval_every and (index + 1) % recipe.eval_every == 0 and job.held_out:
            with meter.pause():
                evaluate(model, head, job.held_out, progress)
    return meter.result(peak_memory())


def _accumulate(step: Step, job: TrainJob, passes: list[tuple[int, ...]], index: int) -> float:
    """Add up the gradients of the step's mean loss over all its completion tokens; returns it.

    Each forward pass is divided by the tokens of the whole step, so that the result does not
    depend on how the step is cut.
    """
    n_completion = sum(job.examples[i].n_completion for rows in passes for i in rows)
    mean = 0.0
    for number, rows in enumerate(passes):
        batch = make_batch([job.examples[i] for i in rows])
        share, losses = step.add(batch, n_completion, dropout_key(job, index, number))
        if not np.isfinite(losses).all():
            bad = sorted({rows[owner] for owner in batch.owners[~np.isfinite(losses)]})
            raise LossNotFinite(
                f"The loss of examples {bad} is not finite in training step {index + 1}.",
                examples=tuple(bad),
            )
        mean += share
    return mean


def dropout_key(job: TrainJob, index: int, number: int) -> mx.array:
    """The random key of one forward pass: it depends on the place in the training alone."""
    place = [job.recipe.seed, job.start_step + index, number]
    return mx.random.key(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))


def _finite_norm(step: Step, index: int) -> float:
    if not math.isfinite(norm := step.norm()):
        raise LossNotFinite(f"The gradient is not finite in training step {index + 1}.")
    return norm
