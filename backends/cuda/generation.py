"""Logits of the next token, with the keys and values of the conversation kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from backends.answer import Answer
from backends.base import Token
from backends.conversations import common_beginning
from backends.cuda.attention import choose_attention
from backends.cuda.errors import memory_errors
from backends.cuda.head import head_sees_only


class Conversation:
    """Tokens whose keys and values are known, so that the next question computes only its own.

    Valid for one state of the adapter.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.tokens: list[int] = []
        self._cache = DynamicCache(config=model.config)

    @property
    def n_bytes(self) -> int:
        """Bytes of the keys and values."""
        layers = (layer for layer in self._cache.layers if layer.is_initialized)
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def rewind(self, prompt: Sequence[int]) -> None:
        """Keep what begins like ``prompt``, without its last token, whose logits are wanted."""
        common = common_beginning(self.tokens, prompt[:-1])
        surplus = len(self.tokens) - common
        if surplus and not all(type(layer) is DynamicLayer for layer in self._cache.layers):
            # A sliding window has dropped what it would have to go back to.
            self.tokens, self._cache = [], DynamicCache(config=self._model.config)
        elif surplus:
            self._cache.crop(-surplus)
            self.tokens = self.tokens[:common]

    def logits_after(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (vocabulary,) float32 after ``tokens``, which continue the known ones."""
        new = list(tokens[len(self.tokens) :])
        choose_attention(self._model, 1, len(new))
        with memory_errors("generating an answer"):
            logits = _last_logits(self._model, [new], past_key_values=self._cache)
        self.tokens += new
        return logits[0]


def answer_together(model: PreTrainedModel, answers: Sequence[Answer]) -> list[list[Token]]:
    """All tokens of each answer; one forward pass chooses the next token of every open one."""
    pad = max(len(answer.tokens) for answer in answers)
    mask = torch.tensor(
        [[0] * (pad - len(answer.tokens)) + [1] * len(answer.tokens) for answer in answers]
    ).to(model.device)
    rows = [[0] * (pad - len(answer.tokens)) + answer.tokens for answer in answers]
    cache = DynamicCache(config=model.config)
    taken: list[list[Token]] = [[] for _ in answers]
    live = list(range(len(answers)))
    while live:
        logits = _next_logits(model, rows, mask, cache)
        for place, index in enumerate(live):
            taken[index].append(answers[index].take(logits[place]))
        going_on = [place for place, index in enumerate(live) if answers[index].finish is None]
        if len(going_on) < len(live):
            kept = torch.tensor(going_on, dtype=torch.long, device=model.device)
            cache.batch_select_indices(kept)
            mask = mask[kept]
        live = [live[place] for place in going_on]
        rows = [answers[index].tokens[-1:] for index in live]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
    return taken


def _next_logits(
    model: PreTrainedModel, rows: list[list[int]], mask: torch.Tensor, cache: DynamicCache
) -> np.ndarray:
    choose_attention(model, len(rows), len(rows[0]))
    # Each prompt begins at position 0, to the right of its padding.
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -len(rows[0]) :]
    with memory_errors("generating answers"):
        return _last_logits(
            model, rows, attention_mask=mask, position_ids=positions, past_key_values=cache
        )


def _last_logits(
    model: PreTrainedModel, rows: list[list[int]], **given: torch.Tensor | DynamicCache
) -> np.ndarray:
    """Logits (rows, vocabulary) float32 after each row, which all have the same length."""
    ids = torch.tensor(rows, device=model.device)
    ends = torch.arange(1, len(rows) + 1, device=model.device) * ids.shape[1] - 1
    with torch.inference_mode(), head_sees_only(model, ends):
        logits = model(input_ids=ids, use_cache=True, **given).logits
    return np.asarray(logits[0].float().cpu().numpy())
