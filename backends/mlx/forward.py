"""One forward pass: padded examples in, the loss of each completion token out.

Right padding needs no mask: attention is causal, so no token sees what follows it, and nothing
is read at the padding's own places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from backends.base import Example
from backends.mlx.head import Head

_COLUMNS, _PLACES = 32, 8
"""How finely sizes differ: padding costs 2 % of all work, further places only of the head's."""


@dataclass(frozen=True)
class Batch:
    """Right-padded examples. ``ids`` is (rows, columns).

    Of the completion tokens, ``places`` (n,) are the flat positions that predict them and
    ``targets`` (n,) their ids. The first ``len(owners)`` of the n are real, and owners their row;
    the others only make n one of few sizes.
    """

    ids: mx.array
    places: mx.array
    targets: mx.array
    owners: np.ndarray

    def weights(self, weight: float) -> mx.array:
        """``weight`` for each real completion token and 0 for the others, float32 (n,)."""
        found = np.zeros(self.places.shape, dtype=np.float32)
        found[: len(self.owners)] = weight
        return mx.array(found)


def make_batch(examples: Sequence[Example]) -> Batch:
    """Pad the examples to the longest of them, and a little more."""
    columns = few_sizes(max(len(example.tokens) for example in examples), _COLUMNS)
    ids = np.zeros((len(examples), columns), dtype=np.int32)
    wanted = np.zeros(ids.shape, dtype=bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.tokens)] = example.tokens
        wanted[row, example.n_prompt : len(example.tokens)] = True
    # The hidden state before a token is what predicts it.
    places = np.flatnonzero(wanted) - 1
    padding = (0, few_sizes(len(places), _PLACES) - len(places))
    return Batch(
        ids=mx.array(ids),
        places=mx.array(np.pad(places, padding).astype(np.int32)),
        targets=mx.array(np.pad(ids[wanted], padding)),
        owners=np.nonzero(wanted)[0],
    )


def few_sizes(n: int, parts: int) -> int:
    """``n`` or a little more, so that few different sizes occur: each compiles anew.

    From a power of 2 to the next there are ``parts`` / 2 sizes.
    """
    step = max(1, (1 << (n - 1).bit_length()) // parts)
    return -(-n // step) * step


def token_losses(
    head: Head,
    ids: mx.array,
    places: mx.array,
    targets: mx.array,
    cache: list[Any] | None = None,
) -> mx.array:
    """Negative log-likelihood of each target, float32 nats (n,).

    ``cache`` holds keys and values of tokens that come before every row; it is used up.
    """
    return nn.losses.cross_entropy(head.logits(ids, places, cache), targets, reduction="none")
