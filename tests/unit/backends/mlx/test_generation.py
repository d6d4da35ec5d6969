"""The kept conversation: what is computed anew, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from backends.base import ChatMessage, GenerateOptions
from backends.mlx import BACKEND
from backends.mlx.generation import Conversation
from backends.mlx.head import Head
from backends.mlx.model import MlxModel
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import schema_for, write_random

OPTIONS = GenerateOptions(max_tokens=8)


def ask(content: str) -> list[ChatMessage]:
    return [{"role": "user", "content": content}]


def loaded(architecture: Architecture = "llama") -> MlxModel:
    model = BACKEND.load(tiny_model(architecture))
    assert isinstance(model, MlxModel)
    return model


def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of tokens of each forward pass from now on."""
    seen: list[int] = []
    logits = Head.logits

    def counted(self: Head, ids: mx.array, *rest: object) -> mx.array:
        seen.append(ids.size)
        return logits(self, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Head, "logits", counted)
    return seen


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_conversation_goes_on_as_if_asked_at_once(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture
) -> None:
    model = loaded(architecture)
    first = "".join(token.text for token in model.generate(ask("What is asthma?"), OPTIONS))
    chat = [*ask("What is asthma?"), {"role": "assistant", "content": first}, *ask("And a cough?")]
    seen = computed(monkeypatch)
    continued = [token.text for token in model.generate(chat, OPTIONS)]
    n_first = seen[0]
    seen.clear()
    fresh = [token.text for token in loaded(architecture).generate(chat, OPTIONS)]
    assert continued == fresh
    if architecture == "llama":
        assert n_first < 0.7 * max(seen)


def test_a_long_prompt_goes_in_parts_with_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    question = ask("a patient with a fever " * 30)
    whole = [token.text for token in loaded().generate(question, OPTIONS)]
    monkeypatch.setattr("backends.mlx.generation._PREFILL", 16)
    seen = computed(monkeypatch)
    assert [token.text for token in loaded().generate(question, OPTIONS)] == whole
    assert max(seen) == 16
    assert len(seen) > 10


def test_each_adapter_keeps_its_own_conversation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = loaded()
    schema = schema_for(tiny_model())
    adapters = [write_random(tmp_path / str(n), schema, seed=n, scale=0.3) for n in range(2)]
    question, answers = ask("What is asthma?"), []
    for adapter in adapters:
        model.attach(adapter, schema)
        answers.append([token.text for token in model.generate(question, OPTIONS)])
    seen = computed(monkeypatch)
    for adapter, expected in zip(adapters, answers, strict=True):
        model.attach(adapter, schema)
        assert [token.text for token in model.generate(question, OPTIONS)] == expected
    assert max(seen) == 1
    assert answers[0] != answers[1]


def test_a_conversation_counts_its_bytes() -> None:
    model = loaded()
    conversation = Conversation(model._model, model._head)
    assert conversation.n_bytes == 0
    conversation.logits_after([1, 2, 3])
    # Two layers, keys and values, two heads of 16 numbers of 4 bytes, in steps of 256 tokens.
    assert conversation.n_bytes == 2 * 2 * 2 * 16 * 4 * 256
    assert conversation.tokens == [1, 2, 3]
