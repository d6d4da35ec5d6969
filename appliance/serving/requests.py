"""What a program may ask for: OpenAI's chat completion request, as far as it can be honoured.

A field that would have to be ignored is refused, unless its value asks for nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from appliance.inference import DEFAULT_OPTIONS
from appliance.serving.problems import Problem
from backends.base import ChatMessage, GenerateOptions

_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
}
"""Fields of the protocol that only these values do not make us refuse."""
_UNREAD = {"user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier"}
"""Fields that say who asks, or how an account is billed; nothing is kept of them."""


def _joined(content: object) -> object:
    """The text of a content that comes in parts."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and part.keys() == {"type", "text"} and part["type"] == "text"
        for part in content
    ):
        return "".join(str(part["text"]) for part in content)
    return content


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


class _Turn(BaseModel):
    """One turn; what assistants' turns of other servers carry beside it must be empty."""

    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_joined)]


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for one answer."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    model: str
    messages: list[_Turn] = Field(min_length=1)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = Field(None, gt=0)
    max_completion_tokens: int | None = Field(None, gt=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=0)
    stop: Annotated[
        list[Annotated[str, Field(min_length=1)]] | None,
        BeforeValidator(_as_list),
        Field(max_length=4),
    ] = None

    @property
    def conversation(self) -> list[ChatMessage]:
        """The turns as the engines know them; ``developer`` is another word for ``system``."""
        return [
            {"role": "system" if turn.role == "developer" else turn.role, "content": turn.content}
            for turn in self.messages
        ]

    @property
    def options(self) -> GenerateOptions:
        """How to sample; greedy unless the program asks otherwise."""
        default = DEFAULT_OPTIONS
        return replace(
            default,
            max_tokens=self.max_completion_tokens or self.max_tokens or default.max_tokens,
            temperature=default.temperature if self.temperature is None else self.temperature,
            top_p=default.top_p if self.top_p is None else self.top_p,
            seed=default.seed if self.seed is None else self.seed,
            stop=tuple(self.stop or ()),
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream shall end with the number of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


def parse(body: bytes) -> ChatRequest:
    """The request in this body. Raises Problem naming the field."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise Problem(400, f"{place or 'body'}: {problem['msg']}.", param=place or None) from error
    for field, value in (request.model_extra or {}).items():
        _check_unsupported(field, value)
    for number, turn in enumerate(request.messages):
        _check_turn(number, turn)
    if request.messages[-1].role != "user":
        raise Problem(400, "The last message must be the user's.", param="messages")
    return request


def _check_unsupported(field: str, value: Any) -> None:  # noqa: ANN401
    if value is None or field in _UNREAD or value in _NEUTRAL.get(field, ()):
        return
    raise Problem(
        400,
        f"{field} is not supported by this server; leave it out.",
        code="unsupported_parameter",
        param=field,
    )


def _check_turn(number: int, turn: _Turn) -> None:
    for field, value in (turn.model_extra or {}).items():
        if value:
            raise Problem(
                400,
                f"messages.{number}.{field} is not supported by this server; leave it out.",
                code="unsupported_parameter",
                param=f"messages.{number}.{field}",
            )
