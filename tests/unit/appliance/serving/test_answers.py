"""What leaves the server of an answer that the guardrails change, or that fails half-way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from appliance.inference import Watch
from appliance.safety import DISCLAIMER, GuardEvent, Guardrails
from appliance.serving.answers import Answers, Completion
from backends.base import Token
from federation.errors import BackendError

HARMLESS = "What is a cold?"
DOSE = "Take 400 mg of ibuprofen every six hours."


def tokens(*pieces: str) -> Iterator[Token]:
    return (Token(piece, 0.5) for piece in pieces)


def failing() -> Iterator[Token]:
    yield from tokens("A cold is an infection. ", "It ")
    raise BackendError("Out of memory while generating an answer.")


async def guarded(source: Iterator[Token]) -> AsyncGenerator[GuardEvent, None]:
    for event in Guardrails().guard(HARMLESS, source):
        yield event


def streamed(source: Iterator[Token]) -> tuple[list[dict[str, Any]], str]:
    """The events of a stream, and its last line."""

    async def collect() -> list[str]:
        events = guarded(source)
        completion = Completion("base", Watch(), Answers())
        first = await anext(events)
        return [p async for p in completion.pieces(first, events, wants_usage=False)]

    *events, last = [piece.removeprefix("data: ").strip() for piece in asyncio.run(collect())]
    return [json.loads(event) for event in events], last


def test_a_withheld_sentence_is_nowhere_in_the_stream() -> None:
    events, last = streamed(
        tokens("A cold ", "passes. ", "Take 400 mg", " of ibuprofen every six hours.")
    )
    assert last == "[DONE]"
    assert "400" not in json.dumps(events)
    assert "A cold passes. " in json.dumps(events)


def test_a_refusal_is_the_end_and_is_called_a_content_filter() -> None:
    async def whole() -> dict[str, Any]:
        return await Completion("base", Watch(), Answers()).whole(
            guarded(tokens("A cold passes. ", DOSE, " More."))
        )

    found = asyncio.run(whole())["choices"][0]
    assert found["finish_reason"] == "content_filter"
    assert "400 mg" not in found["message"]["content"]
    assert "More." not in found["message"]["content"]
    assert found["message"]["content"].endswith(DISCLAIMER)


def test_an_error_half_way_is_the_last_event_of_the_stream() -> None:
    events, last = streamed(failing())
    assert events[0]["choices"][0]["delta"]["content"] == "A cold is an infection. "
    error = json.loads(last)["error"]
    assert error["message"].startswith("Out of memory")
    assert (error["type"], error["code"]) == ("server_error", "backend")


def test_only_so_many_answers_are_remembered() -> None:
    answers = Answers()
    for number in range(600):
        answers.remember(f"shown {number}\n", f"written {number}")
    turns = [{"role": "assistant", "content": f"shown {n}"} for n in (0, 599)]
    found = answers.without_notices([*turns, {"role": "user", "content": "shown 599"}])  # type: ignore[list-item]
    assert [turn["content"] for turn in found] == ["shown 0", "written 599", "shown 599"]
