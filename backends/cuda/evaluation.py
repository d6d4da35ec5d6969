"""Losses of examples under the model as it is, without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from transformers import DynamicCache, PreTrainedModel

from backends.base import Example, ExampleLoss, Progress
from backends.cuda.attention import choose_attention
from backends.cuda.errors import memory_errors
from backends.cuda.forward import make_batch, token_losses
from backends.cuda.head import head_sees_only
from backends.cuda.memory import free_memory
from backends.evaluation import Passes, shared_beginning


class Evaluation:
    """Evaluates ``model`` as it is at the time."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._passes = Passes(memory_errors, free_memory)

    def losses(
        self, examples: Sequence[Example], progress: Progress | None = None
    ) -> list[ExampleLoss]:
        """Loss of each example in the given order; see ``LoadedModel.losses``."""
        model = self._model
        # A sliding window would push the shared tokens out of the cache.
        windowed = getattr(model.config, "sliding_window", None)
        n_shared = 0 if windowed else shared_beginning(examples)
        beginning = None
        if n_shared:
            with memory_errors("evaluating"):
                beginning = _compute_beginning(model, examples[0].tokens[:n_shared])

        def loss_sums(batch: Sequence[Example]) -> list[float]:
            return _loss_sums(model, batch, beginning)

        return self._passes.losses_in_order(examples, n_shared, loss_sums, progress)


def _compute_beginning(model: PreTrainedModel, tokens: Sequence[int]) -> DynamicCache:
    # Else the former pass would decide, and the same losses differ in their last digits.
    choose_attention(model, 1, len(tokens))
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([tokens], device=model.device)
    with torch.inference_mode(), head_sees_only(model, ids.new_tensor([len(tokens) - 1])):
        model(ids, past_key_values=cache)
    return cache


def _loss_sums(
    model: PreTrainedModel, examples: Sequence[Example], beginning: DynamicCache | None
) -> list[float]:
    batch = make_batch(examples, model.device)
    with torch.inference_mode():
        cache = deepcopy(beginning)
        if cache is not None:
            cache.batch_repeat_interleave(len(examples))
        losses = token_losses(model, batch, cache)
        sums = torch.zeros(len(examples), device=losses.device)
        return sums.index_add_(0, batch.owners, losses).tolist()
