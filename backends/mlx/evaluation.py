"""Losses of examples under the model as it is, without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

from backends.base import Example, ExampleLoss, Progress
from backends.evaluation import Passes, shared_beginning
from backends.mlx.errors import memory_errors
from backends.mlx.forward import make_batch, token_losses
from backends.mlx.head import Head
from backends.mlx.memory import release_memory


class Evaluation:
    """Evaluates ``model`` as it is at the time."""

    def __init__(self, model: nn.Module, head: Head) -> None:
        self._model, self._head = model, head
        self._passes = Passes(memory_errors, release_memory)

    def losses(
        self, examples: Sequence[Example], progress: Progress | None = None
    ) -> list[ExampleLoss]:
        """Loss of each example in the given order; see ``LoadedModel.losses``."""
        beginning = make_prompt_cache(self._model)
        # Another kind of cache may drop shared tokens, or cannot be repeated for each row.
        plain = all(type(layer) is KVCache for layer in beginning)
        n_shared = shared_beginning(examples) if plain else 0
        if n_shared:
            with memory_errors("evaluating"):
                tokens = mx.array([examples[0].tokens[:n_shared]])
                self._head.logits(tokens, mx.array([0]), beginning)
                mx.eval([layer.state for layer in beginning])

        def loss_sums(batch: Sequence[Example]) -> list[float]:
            return _loss_sums(self._head, batch, beginning if n_shared else None)

        return self._passes.losses_in_order(examples, n_shared, loss_sums, progress)


def _loss_sums(
    head: Head, examples: Sequence[Example], beginning: list[KVCache] | None
) -> list[float]:
    batch = make_batch(examples)
    cache = None if beginning is None else [_repeated(layer, len(examples)) for layer in beginning]
    losses = np.array(token_losses(head, batch.ids, batch.places, batch.targets, cache))
    real = losses[: len(batch.owners)]
    return np.bincount(batch.owners, weights=real, minlength=len(examples)).tolist()


def _repeated(layer: KVCache, rows: int) -> KVCache:
    repeated = KVCache()
    repeated.update_and_fetch(*(mx.repeat(x, rows, axis=0) for x in layer.keys_and_values()))
    return repeated
