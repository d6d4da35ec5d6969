"""One forward pass: padded examples in, the loss of each completion token out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

from backends.base import Example
from backends.cuda.attention import choose_attention
from backends.cuda.head import head_sees_only
from backends.cuda.loss import target_losses


@dataclass(frozen=True)
class Batch:
    """Right-padded examples. ``ids`` and ``mask`` are (rows, columns).

    Of n completion tokens, ``places`` (n,) are the flat positions that predict them, ``targets``
    (n,) their ids and ``owners`` (n,) their row.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    places: torch.Tensor
    targets: torch.Tensor
    owners: torch.Tensor


def make_batch(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pad the examples to the longest of them."""
    columns = max(len(example.tokens) for example in examples)
    ids = torch.zeros(len(examples), columns, dtype=torch.long)
    mask = torch.zeros_like(ids)
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
        mask[row, : len(example.tokens)] = 1
        wanted[row, example.n_prompt : len(example.tokens)] = True
    # The hidden state before a token is what predicts it.
    places = wanted.flatten().nonzero().squeeze(1) - 1
    parts = (ids, mask, places, ids[wanted], wanted.nonzero()[:, 0])
    return Batch(*(part.to(device, non_blocking=True) for part in parts))


def token_losses(
    model: PreTrainedModel, batch: Batch, beginning: DynamicCache | None = None
) -> torch.Tensor:
    """Negative log-likelihood of each completion token, float32 nats (n,).

    ``beginning`` holds keys and values of tokens that come before every row; it is used up.
    """
    choose_attention(model, *batch.ids.shape)
    mask = batch.mask
    if beginning is not None:
        before = mask.new_ones(mask.shape[0], beginning.get_seq_length())
        mask = torch.cat([before, mask], dim=1)
    with head_sees_only(model, batch.places):
        logits = model(
            input_ids=batch.ids,
            attention_mask=mask,
            past_key_values=beginning,
            use_cache=beginning is not None,
        ).logits
    return target_losses(logits[0], batch.targets)
