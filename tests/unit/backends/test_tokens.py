"""Conversations to tokens and tokens to text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from backends.base import ChatMessage
from backends.tokens import ChatTokenizer
from federation.errors import DataError, ModelError
from tests.tiny import CHAT_TEMPLATE, build_tiny_model, tiny_model

CHAT: list[ChatMessage] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is asthma?"},
    {"role": "assistant", "content": "A chronic inflammation of the airways."},
]


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(tiny_model())


def raw(folder: Path | None = None) -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(folder or tiny_model())


def with_template(folder: Path, template: str) -> ChatTokenizer:
    base = build_tiny_model(folder / "base")
    (base / "chat_template.jinja").write_text(template)
    return ChatTokenizer(base)


def test_prompt_and_completion_are_the_templates(tokenizer: ChatTokenizer) -> None:
    example = tokenizer.encode(CHAT, max_length=256)
    assert raw().decode(example.tokens[: example.n_prompt]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is asthma?<|im_end|>\n<|im_start|>assistant\n"
    )
    completion = raw().decode(example.tokens[example.n_prompt :])
    assert completion == "A chronic inflammation of the airways.<|im_end|>"
    assert tokenizer.prompt(CHAT[:2]) == example.tokens[: example.n_prompt]


def test_long_completions_are_cut_and_long_prompts_refused(tokenizer: ChatTokenizer) -> None:
    whole = tokenizer.encode(CHAT, max_length=256)
    cut = tokenizer.encode(CHAT, max_length=whole.n_prompt + 3)
    assert (cut.tokens, cut.n_prompt) == (whole.tokens[: whole.n_prompt + 3], whole.n_prompt)
    with pytest.raises(DataError, match=f"prompt has {whole.n_prompt} tokens"):
        tokenizer.encode(CHAT, max_length=whole.n_prompt)


@pytest.mark.parametrize("chat", [[], CHAT[:2]])
def test_the_last_turn_must_be_an_answer(tokenizer: ChatTokenizer, chat: list[ChatMessage]) -> None:
    with pytest.raises(DataError, match="last turn"):
        tokenizer.encode(chat, max_length=256)


def test_the_prompt_is_what_the_model_will_be_asked(tokenizer: ChatTokenizer) -> None:
    # Two line breaks would be one token if prompt and answer were tokenised together.
    answer = {"role": "assistant", "content": "\n\n  airways"}
    example = tokenizer.encode([*CHAT[:2], answer], max_length=256)
    assert example.tokens[: example.n_prompt] == tokenizer.prompt(CHAT[:2])
    text = raw().decode(example.tokens[example.n_prompt :])
    assert text == "\n\n  airways<|im_end|>"


def test_a_template_without_end_of_turn_gets_one(tmp_path: Path) -> None:
    plain = "{% for m in messages %}{{ m['content'] }}: {% endfor %}"
    example = with_template(tmp_path, plain).encode(CHAT, max_length=256)
    assert raw().decode(example.tokens).endswith("airways.: <|im_end|>")


def test_a_template_that_rewrites_the_prompt_is_refused(tmp_path: Path) -> None:
    rewriting = "{{ messages | length }}" + CHAT_TEMPLATE
    with pytest.raises(ModelError, match="changes the prompt"):
        with_template(tmp_path, rewriting).encode(CHAT, max_length=256)


def test_a_template_may_refuse_a_conversation(tmp_path: Path) -> None:
    strict = "{{ raise_exception('no system turn') }}"
    with pytest.raises(DataError, match="no system turn"):
        with_template(tmp_path, strict).prompt(CHAT[:2])


def test_every_stated_end_token_ends_an_answer(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7]}))
    assert ChatTokenizer(base).end_tokens == (0, 2, 7)
    for damaged in ("{", "[]"):
        (base / "generation_config.json").write_text(damaged)
        with pytest.raises(ModelError, match="generation_config"):
            ChatTokenizer(base)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base")
    (base / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="tokenizer"):
        ChatTokenizer(base)
    (base / "tokenizer.json").unlink()
    (base / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        ChatTokenizer(base)


@given(st.text(max_size=60))
def test_a_stream_gives_the_whole_text(text: str) -> None:
    tokenizer = ChatTokenizer(tiny_model())
    ids = tokenizer._ids(text)
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == raw().decode(ids, skip_special_tokens=True)


def test_a_character_of_several_tokens_comes_out_whole(tokenizer: ChatTokenizer) -> None:
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer._ids("a😀é")]
    assert pieces == ["a", "", "", "", "😀", "", "é"]


def test_what_is_cut_short_is_flushed(tokenizer: ChatTokenizer) -> None:
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer._ids("a😀")[:-1]] == ["a", "", "", ""]
    assert stream.flush() == "\ufffd"
    assert stream.flush() == ""
