"""A guarded answer as a chat completion, whole or in pieces.

Notices and the disclaimer are part of the text, since a program that knows nothing of them has to
show them too; ``fedmed`` repeats them for one that does. A sentence that the guardrails withhold
is in neither.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from appliance.inference import Watch
from appliance.safety import Finished, GuardEvent, Notice, PlainText, Refused
from appliance.serving.problems import Problem, problem_of
from backends.base import ChatMessage
from federation.canonical import sha256
from federation.errors import FedMedError

_REMEMBERED = 512


class Answers:
    """What was said lately: so that an answer that comes back in a conversation is recognised.

    Programs send the text that they showed, notices and disclaimer included; the model shall see
    only what it wrote. Keeps a digest of the former and the latter, in memory.
    """

    def __init__(self) -> None:
        self._answers: OrderedDict[str, str] = OrderedDict()

    def remember(self, shown: str, answer: str) -> None:
        """``answer`` is what the model said in the text ``shown``."""
        self._answers[sha256(shown.strip().encode())] = answer
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def without_notices(self, conversation: Sequence[ChatMessage]) -> list[ChatMessage]:
        """The conversation with the assistant's turns as the model wrote them."""
        return [
            {"role": turn["role"], "content": self._written(turn["content"])}
            if turn["role"] == "assistant"
            else turn
            for turn in conversation
        ]

    def _written(self, shown: str) -> str:
        return self._answers.get(sha256(shown.strip().encode()), shown)


class Completion:
    """One answer on its way to the program that asked for it."""

    def __init__(self, model: str, watch: Watch, answers: Answers) -> None:
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }
        self._watch = watch
        self._answers = answers
        self._text = PlainText()
        self._shown = ""
        self._refused = False
        self._notices: list[dict[str, str]] = []
        self._confidence: float | None = None

    async def whole(self, events: AsyncIterator[GuardEvent]) -> dict[str, Any]:
        """The completion once the answer has ended."""
        async for event in events:
            self._add(event)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self._shown, "refusal": None},
            "finish_reason": self._finish_reason,
            "logprobs": None,
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage,
            "fedmed": self._remarks,
        }

    async def pieces(
        self, first: GuardEvent, rest: AsyncGenerator[GuardEvent, None], *, wants_usage: bool
    ) -> AsyncIterator[str]:
        """The completion as server-sent events, one for each that the guardrails release."""
        yield self._chunk({"role": "assistant", "content": self._add(first)})
        try:
            async for event in rest:
                yield self._chunk({"content": self._add(event)})
        except FedMedError as error:
            yield _event(problem_of(error).body)
            return
        except Problem as problem:
            yield _event(problem.body)
            return
        yield self._chunk({}, self._finish_reason, fedmed=self._remarks)
        if wants_usage:
            usage = {**self._head, "object": "chat.completion.chunk", "choices": []}
            yield _event(usage | {"usage": self._usage})
        yield "data: [DONE]\n\n"

    def _add(self, event: GuardEvent) -> str:
        text = self._text.add(event)
        self._shown += text
        if isinstance(event, Notice):
            self._notices.append({"kind": event.kind, "text": event.text})
        elif isinstance(event, Refused):
            self._refused = True
        elif isinstance(event, Finished):
            self._confidence = event.confidence
            self._answers.remember(self._shown, event.answer)
        return text

    def _chunk(self, delta: dict[str, str], finish: str | None = None, **more: object) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _event(
            {**self._head, "object": "chat.completion.chunk", "choices": [choice], **more}
        )

    @property
    def _finish_reason(self) -> str:
        return "content_filter" if self._refused else self._watch.finish or "stop"

    @property
    def _usage(self) -> dict[str, int]:
        prompt, answer = self._watch.n_prompt, self._watch.n_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }

    @property
    def _remarks(self) -> dict[str, object]:
        return {"notices": self._notices, "confidence": self._confidence}


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
