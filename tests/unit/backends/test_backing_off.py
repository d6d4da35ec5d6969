"""How a plan makes do with less, and that what did not fit is tried once more and no further."""

from __future__ import annotations

import pytest

from backends.backing_off import lowered, narrower, with_less_once
from backends.base import Example, ForwardPlan
from federation.errors import OutOfMemory

EXAMPLES = [Example(tuple(range(n)), 1) for n in (10, 20, 40)]


@pytest.mark.parametrize(
    ("plan", "passes", "less"),
    [
        (ForwardPlan(1000), [(0, 1, 2)], ForwardPlan(60)),
        (ForwardPlan(80, rows=2), [(1, 2), (0,)], ForwardPlan(40, rows=2)),
        (ForwardPlan(40), [(0,), (1,), (2,)], ForwardPlan(40, recompute=True)),
        (ForwardPlan(40, recompute=True), [(0,), (1,), (2,)], None),
    ],
)
def test_a_step_that_did_not_fit_is_halved_then_recomputed(
    plan: ForwardPlan, passes: list[tuple[int, ...]], less: ForwardPlan | None
) -> None:
    assert lowered(plan, EXAMPLES, passes) == less


def test_an_evaluation_is_halved_and_nothing_else() -> None:
    assert narrower(ForwardPlan(1000), EXAMPLES, [(0, 1, 2)]) == ForwardPlan(60)
    assert narrower(ForwardPlan(1000), EXAMPLES, [(0,), (1,), (2,)]) is None


class Small:
    """Something that needs ``needed`` at once and has room for 50."""

    def __init__(self, needed: int) -> None:
        self.needed, self.said, self.tries = needed, [], 0

    def attempt(self) -> int:
        self.tries += 1
        if self.needed > 50:
            raise OutOfMemory("Out of memory.")
        return self.needed

    def less(self) -> ForwardPlan | None:
        return ForwardPlan(self.needed // 2) if self.needed > 60 else None

    def begin_again(self, plan: ForwardPlan) -> None:
        self.needed = plan.tokens

    def run(self) -> int:
        return with_less_once(
            "looking", self.attempt, self.less, self.begin_again, self.said.append
        )


def test_what_fits_is_done_once_and_nothing_is_said() -> None:
    small = Small(50)
    assert (small.run(), small.tries, small.said) == (50, 1, [])


def test_what_does_not_fit_is_tried_once_more_and_it_is_said() -> None:
    small = Small(80)
    assert (small.run(), small.tries) == (40, 2)
    assert small.said == [
        "Out of memory while looking. It is repeated with at most 40 tokens in a forward pass: the "
        "same result, in more time."
    ]


@pytest.mark.parametrize(("needed", "tries"), [(55, 1), (200, 2)])
def test_no_further_than_once_and_not_where_nothing_is_smaller(needed: int, tries: int) -> None:
    small = Small(needed)
    with pytest.raises(OutOfMemory):
        small.run()
    assert small.tries == tries
