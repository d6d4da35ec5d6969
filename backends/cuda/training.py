"""A training by torch: gradients, AdamW, and what a checkpoint must hold of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from transformers import PreTrainedModel

from backends.base import Example, ForwardPlan, Progress, TrainJob, TrainResult
from backends.cuda.errors import memory_errors
from backends.cuda.evaluation import Evaluation
from backends.cuda.forward import make_batch, token_losses
from backends.cuda.lora import Lora
from backends.cuda.memory import free_memory, peak_memory, reset_peak_memory
from backends.cuda.probe import FORWARD_TOKENS
from backends.cuda.recompute import recomputing
from backends.cuda.resuming import capture, random_states, restore, set_random_states
from backends.training import NotFinite, Training


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
    torch.manual_seed(job.recipe.seed + job.start_step)
    reset_peak_memory()
    try:
        engine = TorchEngine(model, lora, job, keep_threads=keep_threads)
        training = Training(engine, job, progress, identity)
        training.run()
    finally:
        lora.stop_training()
    return training.meter.result(peak_memory())


class TorchEngine:
    """See ``backends.training.Engine``."""

    def __init__(
        self, model: PreTrainedModel, lora: Lora, job: TrainJob, *, keep_threads: bool
    ) -> None:
        self._model, self._lora, self._factors = model, lora, job.factors
        self._max_norm = job.recipe.max_grad_norm
        self._keep_threads = keep_threads
        self._parameters = lora.start_training(job.factors)
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=job.recipe.learning_rate,
            weight_decay=job.recipe.weight_decay,
            # Hundreds of small factors: one after the other takes longer than a layer's pass.
            fused=True,
        )
        self._evaluation = Evaluation(model)
        self._random = random_states(model.device)
        self.forward = ForwardPlan(FORWARD_TOKENS[model.device.type])

    @property
    def threads(self) -> int:
        """See ``Engine.threads``."""
        return torch.get_num_threads()

    def adopt_threads(self, before: int) -> str:
        """See ``Engine.adopt_threads``: another number of threads adds in another order."""
        now = torch.get_num_threads()
        if not self._keep_threads:
            torch.set_num_threads(before)
        elif now != before:
            return (
                f"Computed with {before} threads until here and with {now} from here, as asked: "
                "the result may differ in its last digits."
            )
        return ""

    def begin_step(self) -> None:
        """See ``Engine.begin_step``."""
        self._random = random_states(self._model.device)

    def restart_step(self) -> None:
        """See ``Engine.restart_step``."""
        self._optimizer.zero_grad()
        free_memory()
        set_random_states(self._random, self._model.device)

    def backward(
        self, examples: Sequence[Example], n_completion: int, *, recompute: bool, place: int
    ) -> float:
        """See ``Engine.backward``. torch's generators decide what dropout drops, not ``place``."""
        batch = make_batch(examples, self._model.device)
        with recomputing(self._model, wanted=recompute):
            losses = token_losses(self._model, batch)
        loss = losses.sum() / n_completion
        if not torch.isfinite(loss):
            bad = set(batch.owners[~losses.isfinite()].tolist())
            raise NotFinite("loss", sorted(bad) or range(len(examples)))
        loss.backward()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if not math.isfinite(torch.nn.utils.get_total_norm(gradients).item()):
            raise NotFinite("gradient", range(len(examples)))
        return loss.item()

    def update(self, rate: float) -> float:
        """See ``Engine.update``."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        return norm.item()

    def evaluate(self, examples: Sequence[Example], progress: Progress) -> None:
        """See ``Engine.evaluate``."""
        self._lora.stop_training()
        self._evaluation.losses(examples, progress)
        self._lora.start_training(self._factors)

    def capture(self, *, gradients: bool) -> dict[str, np.ndarray]:
        """See ``Engine.capture``."""
        return capture(self._lora, self._optimizer, gradients=gradients)

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """See ``Engine.restore``."""
        restore(tensors, self._lora, self._optimizer)
        self._random = random_states(self._model.device)

    def memory_errors(self, doing: str) -> AbstractContextManager[None]:
        """See ``Engine.memory_errors``."""
        return memory_errors(doing)
