"""One answer as it comes about, token by token: what every engine's generation shares.

An engine says which logits follow the tokens so far; choosing a token, turning it into text and
knowing when the answer ends are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np

from backends.base import Finish, GenerateOptions, Token
from backends.sampling import Sampler
from backends.tokens import ChatTokenizer
from federation.errors import DataError


class Answer:
    """An answer under way; ``tokens`` are the prompt's and its own, ``finish`` why it has ended.

    Raises DataError when the prompt fills the model's ``context``.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        prompt: Sequence[int],
        options: GenerateOptions,
        *,
        context: int,
    ) -> None:
        if len(prompt) >= context:
            raise DataError(
                f"The question has {len(prompt)} tokens; this base model reads at most {context}.",
                hint="Ask a shorter question or begin a new conversation.",
            )
        self.tokens = list(prompt)
        self.finish: Finish | None = None
        self._end_tokens = tokenizer.end_tokens
        self._last = min(context, len(prompt) + options.max_tokens)
        self._sampler = Sampler(options, prompt)
        self._text = tokenizer.stream()
        self._stop = StopStrings(options.stop)

    def take(self, logits: np.ndarray) -> Token:
        """The token that follows, from float32 ``logits`` (vocabulary,)."""
        token, probability = self._sampler.choose(logits)
        if token in self._end_tokens:
            self.finish, piece = "stop", ""
        else:
            self.tokens.append(token)
            piece = self._text.push(token)
            if len(self.tokens) == self._last:
                self.finish = "length"
        if self.finish is not None:
            # An answer may be cut inside a character.
            piece += self._text.flush()
        piece = self._stop.push(piece)
        if self._stop.met:
            self.finish = "stop"
        elif self.finish is not None:
            piece += self._stop.flush()
        return Token(piece, probability, self.finish)


class StopStrings:
    """Text in, text out, up to the first of some strings; ``met`` says that it came.

    What could be the beginning of one is held back until that is settled.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.met = False
        self._strings = strings
        self._held = ""

    def push(self, piece: str) -> str:
        """Text that is certainly before any of the strings."""
        text = self._held + piece
        places = [place for string in self._strings if (place := text.find(string)) >= 0]
        if places:
            self.met, self._held = True, ""
            return text[: min(places)]
        n_held = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """What is still held back when no text follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Length of the longest end of ``text`` that ``string`` begins with."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)


class Conversation(Protocol):
    """Tokens whose keys and values an engine knows."""

    def rewind(self, prompt: Sequence[int]) -> None:
        """Keep what begins like ``prompt``, without its last token, whose logits are wanted."""

    def logits_after(self, tokens: Sequence[int]) -> np.ndarray:
        """Logits (vocabulary,) float32 after ``tokens``, which continue the known ones."""


def stream(answer: Answer, conversation: Conversation) -> Generator[Token, None, None]:
    """The answer's tokens, computing only what the conversation does not know yet."""
    conversation.rewind(answer.tokens)
    while answer.finish is None:
        yield answer.take(conversation.logits_after(answer.tokens))
