"""A training by MLX: gradients added up over forward passes, clipped, and applied by AdamW.

On Metal everything that computes is compiled by MLX, once for each size of batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from backends.base import Example, ForwardPlan, Progress, TrainJob, TrainResult
from backends.mlx.errors import memory_errors
from backends.mlx.evaluation import Evaluation
from backends.mlx.forward import make_batch, token_losses
from backends.mlx.head import Head
from backends.mlx.lora import Arrays, Lora
from backends.mlx.memory import peak_memory, release_memory, reset_peak_memory
from backends.mlx.probe import FORWARD_TOKENS, device
from backends.mlx.recompute import recomputing
from backends.training import NotFinite, Training

_MOMENTS = ("m", "v")
"""What MLX's AdamW keeps of each factor."""


def train(
    model: nn.Module,
    head: Head,
    lora: Lora,
    job: TrainJob,
    progress: Progress,
    identity: dict[str, str],
) -> TrainResult:
    """Train ``lora`` in place; see ``LoadedModel.train``."""
    reset_peak_memory()
    training = Training(MlxEngine(model, head, lora, job), job, progress, identity)
    training.run()
    return training.meter.result(peak_memory())


class MlxEngine:
    """See ``backends.training.Engine``.

    AdamW is Loshchilov and Hutter's, arXiv 1711.05101, with the bias correction of Adam (Kingma
    and Ba, arXiv 1412.6980), which MLX leaves out unless told. There is no random generator:
    dropout's keys follow from the seed and the place in the training.
    """

    threads = 0

    def __init__(self, model: nn.Module, head: Head, lora: Lora, job: TrainJob) -> None:
        self._model, self._head, self._lora = model, head, lora
        self._recipe, self._factors = job.recipe, job.factors
        self._optimizer = optim.AdamW(
            learning_rate=job.recipe.learning_rate,
            weight_decay=job.recipe.weight_decay,
            bias_correction=True,
        )
        self._evaluation = Evaluation(model, head)
        self._optimizer.init(lora.arrays(job.factors))
        self.begin_step()
        self.forward = ForwardPlan(FORWARD_TOKENS[device()])
        self._run_pass, self._run_update = self._pass, self._updated
        # The processor build compiles with the system's C++ compiler: seconds for each function.
        if device() == "metal":
            moments = [self._optimizer.state]
            self._run_pass = mx.compile(self._pass)
            self._run_update = mx.compile(self._updated, inputs=moments, outputs=moments)

    def adopt_threads(self, before: int) -> str:
        """See ``Engine.adopt_threads``: MLX chooses its threads itself."""
        return ""

    def begin_step(self) -> None:
        """See ``Engine.begin_step``."""
        self._gradients = tree_map(mx.zeros_like, self._lora.arrays(self._factors))

    def restart_step(self) -> None:
        """See ``Engine.restart_step``."""
        self.begin_step()
        release_memory()

    def backward(
        self, examples: Sequence[Example], n_completion: int, *, recompute: bool, place: int
    ) -> float:
        """See ``Engine.backward``."""
        batch = make_batch(examples)
        share, losses, norm, gradients = self._run_pass(
            self._lora.arrays(self._factors),
            self._gradients,
            (batch.ids, batch.places, batch.targets),
            batch.weights(1.0 / n_completion),
            _dropout_key(self._recipe.seed, place),
            recompute,
        )
        mx.eval(share, losses, norm, gradients)
        infinite = ~np.isfinite(np.array(losses)[: len(batch.owners)])
        if infinite.any():
            raise NotFinite("loss", batch.owners[infinite].tolist())
        if not math.isfinite(float(np.array(norm))):
            raise NotFinite("gradient", range(len(examples)))
        self._gradients = gradients
        return float(np.array(share))

    def update(self, rate: float) -> float:
        """See ``Engine.update``."""
        norm = float(np.array(_norm(self._gradients)))
        # As torch's clip_grad_norm_ has it.
        scale = min(1.0, self._recipe.max_grad_norm / (norm + 1e-6))
        self._optimizer.learning_rate = rate
        factors = self._run_update(
            self._lora.arrays(self._factors), self._gradients, mx.array(scale)
        )
        mx.eval(factors, self._optimizer.state)
        self._lora.put(factors)
        return norm

    def evaluate(self, examples: Sequence[Example], progress: Progress) -> None:
        """See ``Engine.evaluate``."""
        self._evaluation.losses(examples, progress)

    def capture(self, *, gradients: bool) -> dict[str, np.ndarray]:
        """See ``Engine.capture``."""
        state = self._optimizer.state
        found = {"step": state["step"]}
        for name, factor in self._lora.arrays(self._factors).items():
            found |= {f"factor.{name}": factor}
            found |= {f"{moment}.{name}": state[name][moment] for moment in _MOMENTS}
            if gradients:
                found[f"gradient.{name}"] = self._gradients[name]
        # MLX lays out some arrays with strides, which safetensors would not notice.
        return {name: np.array(array, order="C") for name, array in found.items()}

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """See ``Engine.restore``."""
        arrays = {name: mx.array(tensor) for name, tensor in tensors.items()}
        self._optimizer.state["step"] = arrays["step"]
        for name in self._gradients:
            self._lora.put({name: arrays[f"factor.{name}"]})
            self._optimizer.state[name] = {x: arrays[f"{x}.{name}"] for x in _MOMENTS}
            if f"gradient.{name}" in arrays:
                self._gradients[name] = arrays[f"gradient.{name}"]

    def memory_errors(self, doing: str) -> AbstractContextManager[None]:
        """See ``Engine.memory_errors``."""
        return memory_errors(doing)

    def _pass(
        self,
        factors: Arrays,
        gradients: Arrays,
        tokens: tuple[mx.array, mx.array, mx.array],
        weights: mx.array,
        key: mx.array,
        recompute: bool,
    ) -> tuple[mx.array, mx.array, mx.array, Arrays]:
        def weighted(factors: Arrays) -> tuple[mx.array, mx.array]:
            with self._lora.holding(factors):
                losses = token_losses(self._head, *tokens)
            return (losses * weights).sum(), losses

        # Around the backward pass too: what it computes again must drop the same.
        with self._lora.dropping(key), recomputing(self._model, self._lora, wanted=recompute):
            (share, losses), new = mx.value_and_grad(weighted)(factors)
        summed = tree_map(mx.add, gradients, new)
        return share, losses, _norm(summed), summed

    def _updated(self, factors: Arrays, gradients: Arrays, scale: mx.array) -> Arrays:
        clipped = tree_map(lambda gradient: gradient * scale, gradients)
        moved: Arrays = self._optimizer.apply_gradients(clipped, factors)
        return moved


def _norm(arrays: Arrays) -> mx.array:
    """L2 norm of all arrays together."""
    return mx.sqrt(mx.stack([mx.square(array).sum() for array in arrays.values()]).sum())


def _dropout_key(seed: int, place: int) -> mx.array:
    return mx.random.key(int(np.random.SeedSequence([seed, place]).generate_state(1, np.uint64)[0]))
