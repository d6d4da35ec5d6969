"""Text to tokens and back, by the base model's own tokenizer and chat template.

Both engines use transformers' tokenizers, so one conversation is the same tokens everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import ChatMessage, Example
from federation.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTokenizer:
    """The tokenizer of a model folder. Raises ModelError when it is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        # Imported here: it takes seconds, and choosing an engine must not.
        from transformers import AutoTokenizer

        try:
            self._tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"The tokenizer in {folder} cannot be read: {error}") from error
        self.end_tokens = _end_tokens(folder, self._tokenizer.eos_token_id)
        """Ids that end an answer; sorted."""

    def prompt(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """Tokens of the conversation up to where the assistant's next answer begins."""
        return self._ids(self._render(messages, add_generation_prompt=True))

    def encode(self, messages: Sequence[ChatMessage], *, max_length: int) -> Example:
        """Prompt and completion; the completion is the last turn with its end-of-turn token.

        Raises DataError when the last turn is not the assistant's or the prompt leaves no room,
        ModelError when the template has no clear place for the answer.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise DataError("The last turn of a training conversation must be the assistant's.")
        prompt_text = self._render(messages[:-1], add_generation_prompt=True)
        whole_text = self._render(messages, add_generation_prompt=False)
        if not whole_text.startswith(prompt_text):
            raise ModelError(
                "The model's chat template changes the prompt when an answer follows.",
                hint="Such a template cannot be trained on; choose another base model.",
            )
        prompt, whole = self._ids(prompt_text), self._ids(whole_text)
        if whole[: len(prompt)] != prompt:
            # The answer's first characters merged into the prompt's last token, which cannot
            # happen when the model is asked.
            whole = prompt + self._ids(whole_text[len(prompt_text) :])
        if len(prompt) >= max_length:
            raise DataError(
                f"The prompt has {len(prompt)} tokens and leaves no room in {max_length}.",
                hint="Raise max_length or shorten the conversation.",
            )
        tokens = prompt + self._ended(whole[len(prompt) :])
        return Example(tokens[:max_length], len(prompt))

    def stream(self) -> TextStream:
        """A fresh decoder for one answer."""
        return TextStream(self._tokenizer)

    def _ended(self, completion: tuple[int, ...]) -> tuple[int, ...]:
        """Cut what the template puts after the end of turn; the model never has to write that."""
        ends = [place for place, token in enumerate(completion) if token in self.end_tokens]
        if ends:
            return completion[: ends[-1] + 1]
        return (*completion, self.end_tokens[0])

    def _render(self, messages: Sequence[ChatMessage], *, add_generation_prompt: bool) -> str:
        if self._tokenizer.chat_template is None:
            raise ModelError(
                "The base model has no chat template.",
                hint="Use an instruction-tuned model; its folder has chat_template.jinja.",
            )
        with _template_errors():
            text: str = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        return text

    def _ids(self, text: str) -> tuple[int, ...]:
        # The template has written every special token already.
        encoded = self._tokenizer(text, add_special_tokens=False, verbose=False)
        return tuple(encoded["input_ids"])


class TextStream:
    """Tokens in, text out: each piece is what the newest token adds.

    A character may span several tokens; it comes out with its last one. A short window is decoded
    each time, since a token's text can depend on the one before it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context, self._shown = 0, 0

    def push(self, token: int) -> str:
        """Text that is certain now; empty inside a multi-byte character."""
        self._ids.append(token)
        text = self._pending()
        if text.endswith("\ufffd"):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return text

    def flush(self) -> str:
        """What is still held back when no token follows."""
        text = self._pending()
        self._context = self._shown = len(self._ids)
        return text

    def _pending(self) -> str:
        known = self._decode(self._ids[self._context : self._shown])
        return self._decode(self._ids[self._context :])[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text


def _end_tokens(folder: Path, eos: int | None) -> tuple[int, ...]:
    config = folder / "generation_config.json"
    try:
        stated = json.loads(config.read_bytes()).get("eos_token_id") if config.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{config} cannot be read: {error}") from error
    ids = {eos, *(stated if isinstance(stated, list) else [stated])}
    if not (ends := tuple(sorted(token for token in ids if token is not None))):
        raise ModelError(f"The tokenizer in {folder} has no end-of-sequence token.")
    return ends


@contextmanager
def _template_errors() -> Iterator[None]:
    from jinja2 import TemplateError

    try:
        yield
    except TemplateError as error:
        raise DataError(
            f"The model's chat template refuses this conversation: {error}",
            hint="Many templates want user and assistant in turns; some allow no system turn.",
        ) from error
