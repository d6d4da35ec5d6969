"""Logits of the next token, with the keys and values of the conversation kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import (
    BatchKVCache,
    BatchRotatingKVCache,
    KVCache,
    RotatingKVCache,
    can_trim_prompt_cache,
    make_prompt_cache,
    trim_prompt_cache,
)

from backends.answer import Answer, stream
from backends.base import Token
from backends.conversations import common_beginning
from backends.mlx.errors import memory_errors
from backends.mlx.head import Head

_PREFILL = 512
"""Tokens of a prompt computed together: bounds the memory of a long one."""


class Conversation:
    """Tokens whose keys and values are known, so that the next question computes only its own.

    Valid for one state of the adapter.
    """

    def __init__(self, model: nn.Module, head: Head) -> None:
        self._model = model
        self._head = head
        self.tokens: list[int] = []
        self._cache = make_prompt_cache(model)

    @property
    def n_bytes(self) -> int:
        """Bytes of the keys and values."""
        return sum(layer.nbytes for layer in self._cache)

    def rewind(self, prompt: Sequence[int]) -> None:
        """Keep what begins like ``prompt``, without its last token, whose logits are wanted."""
        common = common_beginning(self.tokens, prompt[:-1])
        surplus = len(self.tokens) - common
        if surplus and not can_trim_prompt_cache(self._cache):
            # A sliding window has dropped what it would have to go back to.
            self.tokens, self._cache = [], make_prompt_cache(self._model)
        elif surplus:
            trim_prompt_cache(self._cache, surplus)
            self.tokens = self.tokens[:common]

    def logits_after(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (vocabulary,) float32 after ``tokens``, which continue the known ones."""
        with memory_errors("generating an answer"):
            while True:
                part = list(tokens[len(self.tokens) : len(self.tokens) + _PREFILL])
                last = mx.array([len(part) - 1])
                logits = self._head.logits(mx.array([part]), last, self._cache)
                self.tokens += part
                if len(self.tokens) == len(tokens):
                    return np.array(logits[0])
                mx.eval([layer.state for layer in self._cache])


def answer_together(model: nn.Module, head: Head, answers: Sequence[Answer]) -> list[list[Token]]:
    """All tokens of each answer; one forward pass chooses the next token of every open one."""
    caches = _batch_caches(model, answers)
    if caches is None:
        return [list(stream(answer, Conversation(model, head))) for answer in answers]
    pad = max(len(answer.tokens) for answer in answers)
    rows = [[0] * (pad - len(answer.tokens)) + answer.tokens for answer in answers]
    taken: list[list[Token]] = [[] for _ in answers]
    live = list(range(len(answers)))
    while live:
        with memory_errors("generating answers"):
            ends = mx.arange(1, len(rows) + 1) * len(rows[0]) - 1
            logits = np.array(head.logits(mx.array(rows), ends, caches))
        for place, index in enumerate(live):
            taken[index].append(answers[index].take(logits[place]))
        going_on = [place for place, index in enumerate(live) if answers[index].finish is None]
        if going_on and len(going_on) < len(live):
            for layer in caches:
                layer.filter(mx.array(going_on))
        live = [live[place] for place in going_on]
        rows = [answers[index].tokens[-1:] for index in live]
    return taken


def _batch_caches(model: nn.Module, answers: Sequence[Answer]) -> list[Any] | None:
    """A cache a layer for left-padded rows; None where mlx-lm has none for this kind of layer."""
    longest = max(len(answer.tokens) for answer in answers)
    padding = [longest - len(answer.tokens) for answer in answers]
    caches: list[Any] = []
    for layer in make_prompt_cache(model):
        if type(layer) is KVCache:
            caches.append(BatchKVCache(padding))
        elif type(layer) is RotatingKVCache:
            caches.append(BatchRotatingKVCache(layer.max_size, padding))
        else:
            return None
    return caches
