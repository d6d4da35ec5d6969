"""The losses of many examples: what every engine's evaluation shares.

What all prompts begin with (a chat template's system prompt, often a third of all tokens) needs to
be computed only once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import takewhile

from backends.backing_off import narrower, with_less_once
from backends.base import EvalStep, Example, ExampleLoss, ForwardPlan, Note, Progress
from backends.batches import forward_passes
from backends.limits import EVALUATION_TOKENS

_SHORTEST_BEGINNING = 8
"""A shared beginning of fewer tokens is not worth a pass of its own."""


def shared_beginning(examples: Sequence[Example]) -> int:
    """Tokens that all prompts begin with, less the one that predicts the first completion token."""
    if len(examples) < 2:
        return 0
    prompts = zip(*(example.tokens[: example.n_prompt - 1] for example in examples), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, prompts))
    return shared if shared >= _SHORTEST_BEGINNING else 0


class Passes:
    """How an engine's evaluations are cut into forward passes; kept from one to the next.

    Out of memory, a pass and what follows it are cut once more, half as wide: with the next
    evaluation too, which would run out again. ``memory_errors`` and ``free_memory`` are the
    engine's.
    """

    def __init__(
        self,
        memory_errors: Callable[[str], AbstractContextManager[None]],
        free_memory: Callable[[], None],
    ) -> None:
        self._memory_errors, self._free_memory = memory_errors, free_memory
        self._plan = ForwardPlan(EVALUATION_TOKENS)

    def losses_in_order(
        self,
        examples: Sequence[Example],
        n_shared: int,
        loss_sums: Callable[[Sequence[Example]], list[float]],
        progress: Progress | None = None,
    ) -> list[ExampleLoss]:
        """Loss of each example in the given order.

        ``loss_sums`` takes examples without the ``n_shared`` tokens of their beginning, and gives
        the sum over each one's completion, in nats. Raises OutOfMemory the second time.
        """
        found: dict[int, ExampleLoss] = {}
        endings = [
            replace(example, tokens=example.tokens[n_shared:], n_prompt=example.n_prompt - n_shared)
            for example in examples
        ]

        def passes_left() -> list[tuple[int, ...]]:
            left = [index for index in range(len(examples)) if index not in found]
            return forward_passes(endings, [left], self._plan)

        def attempt() -> None:
            for indices in passes_left():
                with self._memory_errors("evaluating"):
                    sums = loss_sums([endings[index] for index in indices])
                for index, loss in zip(indices, sums, strict=True):
                    n_completion = examples[index].n_completion
                    found[index] = ExampleLoss(loss / n_completion, n_completion)
                if progress is not None:
                    mean = _mean(found.values())
                    progress(EvalStep(done=len(found), of=len(examples), loss=mean))

        def less() -> ForwardPlan | None:
            return narrower(self._plan, endings, passes_left())

        def begin_again(plan: ForwardPlan) -> None:
            self._plan = plan
            self._free_memory()

        def say(text: str) -> None:
            if progress is not None:
                progress(Note(text))

        with_less_once("evaluating", attempt, less, begin_again, say)
        return [found[index] for index in range(len(examples))]


def _mean(losses: Collection[ExampleLoss]) -> float:
    """Of all completion tokens."""
    return sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)
