"""The prompt caches of one model: conversations kept for each adapter, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Generic, Protocol, TypeVar

MAX_CONVERSATIONS = 8
MAX_BYTES = 1 << 30
"""Keys and values kept in all: 8,000 tokens of a 7-billion model, 45,000 of SmolLM2."""


class Known(Protocol):
    """What the keeper needs of an engine's conversation."""

    @property
    def tokens(self) -> Sequence[int]:
        """The tokens whose keys and values are known."""

    @property
    def n_bytes(self) -> int:
        """What they take up."""


C = TypeVar("C", bound=Known)


class Conversations(Generic[C]):
    """Conversations by the adapter they were held with; the longest unused are dropped first.

    A conversation is taken out while in use, so that a second answer begun meanwhile gets its own.
    """

    def __init__(
        self,
        start: Callable[[], C],
        *,
        max_conversations: int = MAX_CONVERSATIONS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._start = start
        self._max_conversations = max_conversations
        self._max_bytes = max_bytes
        self._kept: list[tuple[str, C]] = []

    def take(self, adapter: str, prompt: Sequence[int]) -> C:
        """The conversation that ``prompt`` continues best, else a new one.

        One of which more would be lost than kept stays for those who may come back to it.
        """
        best, n_best = None, 0
        for place, (held_with, conversation) in enumerate(self._kept):
            n_common = common_beginning(conversation.tokens, prompt)
            if held_with == adapter and n_common > max(n_best, len(conversation.tokens) // 2):
                best, n_best = place, n_common
        return self._start() if best is None else self._kept.pop(best)[1]

    def keep(self, adapter: str, conversation: C) -> None:
        """Put a conversation back, or a new one in; the newest is kept whatever its size."""
        self._kept.append((adapter, conversation))
        while len(self._kept) > 1 and (
            len(self._kept) > self._max_conversations
            or sum(kept.n_bytes for _, kept in self._kept) > self._max_bytes
        ):
            self._kept.pop(0)

    def forget(self) -> None:
        """Drop all, which frees their memory."""
        self._kept.clear()


def common_beginning(tokens: Sequence[int], prompt: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(tokens, prompt, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
