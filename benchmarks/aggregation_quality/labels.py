"""How likely two answers of a model are, in one pass instead of one for each."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

from backends.base import Example, LoadedModel

_BATCH = 25


def first_token_losses(
    loaded: LoadedModel, one: Sequence[Example], other: Sequence[Example]
) -> tuple[list[float], list[float]]:
    """Nats of the first completion token of ``one`` and ``other``, which share their prompts."""
    import torch
    from transformers import DynamicCache

    from backends.cuda.forward import make_batch, token_losses
    from backends.cuda.model import TorchModel
    from backends.evaluation import shared_beginning

    assert isinstance(loaded, TorchModel)
    model = loaded._model
    first: list[float] = []
    second: list[float] = []
    with torch.inference_mode():
        n_shared = shared_beginning(one)
        beginning = DynamicCache(config=model.config)
        model(torch.tensor([one[0].tokens[:n_shared]]), past_key_values=beginning)
        for start in range(0, len(one), _BATCH):
            pairs = list(zip(one, other, strict=True))[start : start + _BATCH]
            short = [_short(a, n_shared) for a, _ in pairs]
            batch = make_batch(short, model.device)
            targets = torch.tensor([b.tokens[b.n_prompt] for _, b in pairs])
            both = replace(
                batch,
                places=batch.places.repeat(2),
                targets=torch.cat([batch.targets, targets]),
                owners=batch.owners.repeat(2),
            )
            cache = deepcopy(beginning)
            cache.batch_repeat_interleave(len(pairs))
            losses = token_losses(model, both, cache).tolist()
            first += losses[: len(pairs)]
            second += losses[len(pairs) :]
    return first, second


def _short(example: Example, n_shared: int) -> Example:
    end = example.n_prompt + 1
    return Example(example.tokens[n_shared:end], example.n_prompt - n_shared)
