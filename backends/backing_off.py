"""Out of memory, once more with less at a time: what training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from backends.base import Example, ForwardPlan
from federation.errors import OutOfMemory

_T = TypeVar("_T")


def with_less_once(
    doing: str,
    attempt: Callable[[], _T],
    less: Callable[[], ForwardPlan | None],
    begin_again: Callable[[ForwardPlan], None],
    say: Callable[[str], None],
) -> _T:
    """What ``attempt`` gives; out of memory, once more, after ``begin_again`` with what ``less``
    says.

    Raises OutOfMemory the second time, and at once where ``less`` knows nothing smaller.
    """
    try:
        return attempt()
    except OutOfMemory:
        if (plan := less()) is None:
            raise
    # Only here is the error gone, and with it the tensors that its traceback held.
    begin_again(plan)
    say(
        f"Out of memory while {doing}. It is repeated with at most {plan.tokens} tokens in a "
        f"forward pass{' and activations recomputed' if plan.recompute else ''}: the same "
        "result, in more time."
    )
    return attempt()


def lowered(
    plan: ForwardPlan, examples: Sequence[Example], passes: Sequence[Sequence[int]]
) -> ForwardPlan | None:
    """What to try when a training step, cut into these ``passes``, did not fit; None: nothing.

    Narrower passes; where each pass has one example, recomputation.
    """
    if (narrow := narrower(plan, examples, passes)) is not None:
        return narrow
    return None if plan.recompute else replace(plan, recompute=True)


def narrower(
    plan: ForwardPlan, examples: Sequence[Example], passes: Sequence[Sequence[int]]
) -> ForwardPlan | None:
    """Half the padded tokens of the widest pass; None where each pass has one example."""
    if all(len(indices) == 1 for indices in passes):
        return None
    widest = max(len(p) * max(len(examples[i].tokens) for i in p) for p in passes)
    return replace(plan, tokens=widest // 2)
