"""The output head, fed with the wanted positions only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


@contextmanager
def head_sees_only(model: PreTrainedModel, places: torch.Tensor) -> Iterator[None]:
    """Inside, logits are (1, n, vocabulary): those at the flat positions ``places`` (n,).

    A vocabulary is wide: logits of prompts and padding would cost more memory than the rest of the
    pass. A hook in front of the output head keeps the wanted hidden states, so that whatever a
    model does to its logits afterwards (scaling, soft caps) still happens.

    What it hands on lies in one piece. transformers' own ``logits_to_keep`` hands on a slice, for
    which torch copies the head's weights on the processor: half the time of a short question.
    """

    def gather(_: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        hidden = args[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, places)[None],)

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
