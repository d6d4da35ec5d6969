"""One optimizer step: gradients added up over forward passes, clipped, and applied by AdamW.

On Metal everything that computes is compiled by MLX, once for each size of batch.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_map

from backends.mlx.forward import Batch, token_losses
from backends.mlx.head import Head
from backends.mlx.lora import Arrays, Lora
from backends.mlx.probe import device
from federation.adapter import Factors
from federation.recipe import TrainingRecipe


class Step:
    """The state between two forward passes: factors, their gradients so far, AdamW's moments.

    AdamW is Loshchilov and Hutter's, arXiv 1711.05101, with the bias correction of Adam (Kingma
    and Ba, arXiv 1412.6980), which MLX leaves out unless told.
    """

    def __init__(self, head: Head, lora: Lora, factors: Factors, recipe: TrainingRecipe) -> None:
        self._head = head
        self._lora = lora
        self._factors = factors
        self._max_norm = recipe.max_grad_norm
        self._gradients = tree_map(mx.zeros_like, lora.arrays(factors))
        self._optimizer = optim.AdamW(
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            bias_correction=True,
        )
        self._optimizer.init(self._gradients)
        self._run_pass, self._run_update = self._pass, self._updated
        # The processor build compiles with the system's C++ compiler: seconds for each function.
        if device() == "metal":
            moments = [self._optimizer.state]
            self._run_pass = mx.compile(self._pass)
            self._run_update = mx.compile(self._updated, inputs=moments, outputs=moments)

    def add(self, batch: Batch, n_completion: int, key: mx.array) -> tuple[float, np.ndarray]:
        """One forward and backward pass, its gradients added to those of the passes before.

        Gives the pass's share of the step's mean loss over ``n_completion`` tokens, and the loss
        of each of its own completion tokens.
        """
        share, losses, self._gradients = self._run_pass(
            self._lora.arrays(self._factors),
            self._gradients,
            (batch.ids, batch.places, batch.targets),
            batch.weights(1.0 / n_completion),
            key,
        )
        mx.eval(share, losses, self._gradients)
        return float(np.array(share)), np.array(losses[: len(batch.owners)])

    def norm(self) -> float:
        """L2 norm of all gradients together."""
        squares = [mx.square(gradient).sum() for gradient in self._gradients.values()]
        return float(np.array(mx.sqrt(mx.stack(squares).sum())))

    def update(self, rate: float, norm: float) -> None:
        """Clip to the recipe's norm, move the factors, and begin new gradients."""
        self._optimizer.learning_rate = rate
        # As torch's clip_grad_norm_ has it.
        scale = min(1.0, self._max_norm / (norm + 1e-6))
        arrays = self._run_update(
            self._lora.arrays(self._factors), self._gradients, mx.array(scale)
        )
        self._gradients = tree_map(mx.zeros_like, self._gradients)
        mx.eval(arrays, self._gradients, self._optimizer.state)
        self._lora.put(arrays)

    def _pass(
        self,
        factors: Arrays,
        gradients: Arrays,
        tokens: tuple[mx.array, mx.array, mx.array],
        weights: mx.array,
        key: mx.array,
    ) -> tuple[mx.array, mx.array, Arrays]:
        def weighted(factors: Arrays) -> tuple[mx.array, mx.array]:
            with self._lora.holding(factors), self._lora.dropping(key):
                losses = token_losses(self._head, *tokens)
            return (losses * weights).sum(), losses

        (share, losses), new = mx.value_and_grad(weighted)(factors)
        return share, losses, tree_map(mx.add, gradients, new)

    def _updated(self, factors: Arrays, gradients: Arrays, scale: mx.array) -> Arrays:
        clipped = tree_map(lambda gradient: gradient * scale, gradients)
        return self._optimizer.apply_gradients(clipped, factors)
