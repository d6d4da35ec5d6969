"""The losses of many examples: what every engine's evaluation shares.

What all prompts begin with (a chat template's system prompt, often a third of all tokens) needs to
be computed only once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

from backends.base import EvalStep, Example, ExampleLoss, Progress
from backends.batches import sorted_batches

MAX_TOKENS = 2048
"""Padded tokens in one forward pass; bounds the logits it holds."""

_SHORTEST_BEGINNING = 8
"""A shared beginning of fewer tokens is not worth a pass of its own."""


def shared_beginning(examples: Sequence[Example]) -> int:
    """Tokens that all prompts begin with, less the one that predicts the first completion token."""
    if len(examples) < 2:
        return 0
    prompts = zip(*(example.tokens[: example.n_prompt - 1] for example in examples), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, prompts))
    return shared if shared >= _SHORTEST_BEGINNING else 0


def losses_in_order(
    examples: Sequence[Example],
    n_shared: int,
    loss_sums: Callable[[Sequence[Example]], list[float]],
    progress: Progress | None = None,
) -> list[ExampleLoss]:
    """Loss of each example in the given order.

    ``loss_sums`` takes examples without the ``n_shared`` tokens of their beginning, and gives the
    sum over each one's completion, in nats.
    """
    found: dict[int, ExampleLoss] = {}
    total, n_tokens = 0.0, 0
    endings = [
        replace(example, tokens=example.tokens[n_shared:], n_prompt=example.n_prompt - n_shared)
        for example in examples
    ]
    for indices in sorted_batches([len(ending.tokens) for ending in endings], MAX_TOKENS):
        sums = loss_sums([endings[index] for index in indices])
        for index, loss in zip(indices, sums, strict=True):
            n_completion = examples[index].n_completion
            found[index] = ExampleLoss(loss / n_completion, n_completion)
            total += loss
            n_tokens += n_completion
        if progress is not None:
            progress(EvalStep(done=len(found), of=len(examples), loss=total / n_tokens))
    return [found[index] for index in range(len(examples))]
