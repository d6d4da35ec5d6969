"""Which conversation a prompt continues, and which are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backends.conversations import Conversations


@dataclass(frozen=True)
class Talk:
    tokens: Sequence[int] = ()
    n_bytes: int = 10


def keeper(*talks: tuple[str, Talk], **bounds: int) -> Conversations[Talk]:
    kept = Conversations(Talk, **bounds)
    for adapter, talk in talks:
        kept.keep(adapter, talk)
    return kept


LONG, SHORT, OTHER = Talk((1, 2, 3, 4)), Talk((1, 2)), Talk((1, 9, 9, 9))


def test_the_longest_beginning_of_the_same_adapter_goes_on() -> None:
    kept = keeper(("a", SHORT), ("a", LONG), ("b", Talk((1, 2, 3, 4, 5))), ("a", OTHER))
    assert kept.take("a", (1, 2, 3, 4, 5)) is LONG
    assert kept.take("a", (1, 2, 3, 4, 5)) is SHORT
    assert kept.take("a", (1, 2, 3, 4, 5)).tokens == (), "those in use are taken out"


def test_what_would_lose_most_of_it_is_left_for_who_may_come_back() -> None:
    kept = keeper(("a", OTHER))
    assert kept.take("a", (1, 2, 3)).tokens == ()
    assert kept.take("a", (1, 9, 9, 5)) is OTHER


def test_the_longest_unused_are_dropped() -> None:
    kept = keeper(("a", LONG), ("b", SHORT), ("a", OTHER), max_conversations=2)
    assert kept.take("a", LONG.tokens).tokens == ()
    assert kept.take("b", SHORT.tokens) is SHORT
    kept = keeper(("a", LONG), ("b", SHORT), max_bytes=19)
    assert kept.take("a", LONG.tokens).tokens == ()
    assert kept.take("b", SHORT.tokens) is SHORT


def test_the_newest_is_kept_whatever_its_size_until_all_are_forgotten() -> None:
    kept = keeper(("a", LONG), max_bytes=1)
    assert kept.take("a", LONG.tokens) is LONG
    kept.keep("a", LONG)
    kept.forget()
    assert kept.take("a", LONG.tokens).tokens == ()
