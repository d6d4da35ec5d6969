"""Streaming against transformers' own generate, and the kept conversation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backends.base import ChatMessage, GenerateOptions
from backends.cuda import BACKEND
from backends.cuda.model import TorchModel
from tests.tiny import Architecture, build_tiny_model, tiny_model
from tests.tiny_training import schema_for, write_random

QUESTIONS = ("What is asthma?", "A patient with a fever", "é 😀")


def ask(content: str) -> list[ChatMessage]:
    return [{"role": "user", "content": content}]


def text_of(model: TorchModel, chat: list[ChatMessage], options: GenerateOptions) -> str:
    return "".join(token.text for token in model.generate(chat, options))


def reference(base: Path, content: str, **options: object) -> str:
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(base),
        AutoTokenizer.from_pretrained(base),
    )
    prompt = tokenizer.apply_chat_template(
        ask(content), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, do_sample=False, **options)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(ids, skip_special_tokens=True)


def loaded(base: Path) -> TorchModel:
    model = BACKEND.load(base, threads=1)
    assert isinstance(model, TorchModel)
    return model


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers(architecture: Architecture, penalty: float) -> None:
    base = tiny_model(architecture)
    model = loaded(base)
    for question in QUESTIONS:
        found = text_of(
            model, ask(question), GenerateOptions(max_tokens=24, repetition_penalty=penalty)
        )
        assert found == reference(base, question, max_new_tokens=24, repetition_penalty=penalty)


def test_an_end_token_ends_the_answer(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base")
    whole = list(loaded(base).generate(ask("asthma"), GenerateOptions(max_tokens=8)))
    tokenizer = AutoTokenizer.from_pretrained(base)
    fifth = tokenizer(whole[4].text, add_special_tokens=False)["input_ids"]
    assert len(fifth) == 1, "the fifth piece must be one token for this test to mean something"
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": fifth}))
    ended = list(loaded(base).generate(ask("asthma"), GenerateOptions(max_tokens=8)))
    assert [token.text for token in ended] == [*(token.text for token in whole[:4]), ""]
    assert [token.finish for token in ended] == [None] * 4 + ["stop"]


def test_probabilities_are_the_models_own() -> None:
    model = loaded(tiny_model())
    token = next(model.generate(ask("asthma"), GenerateOptions(temperature=0.7, seed=3)))
    greedy = next(model.generate(ask("asthma"), GenerateOptions()))
    prompt = torch.tensor([model._tokenizer.prompt(ask("asthma"))])
    with torch.no_grad():
        probabilities = model._model(input_ids=prompt).logits[0, -1].softmax(-1)
    assert greedy.probability == pytest.approx(probabilities.max().item(), rel=1e-4)
    assert any(token.probability == pytest.approx(p, rel=1e-4) for p in probabilities.tolist())


def test_a_second_question_computes_only_what_is_new() -> None:
    model = loaded(tiny_model())
    options = GenerateOptions(max_tokens=6)
    chat = ask("What is asthma?")
    answer = text_of(model, chat, options)
    chat = [*chat, {"role": "assistant", "content": answer}, *ask("And a seizure?")]
    computed: list[int] = []
    hook = model._model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: computed.append(args[0].shape[1])
    )
    second = text_of(model, chat, options)
    hook.remove()
    n_prompt = len(model._tokenizer.prompt(chat))
    assert n_prompt / 3 < computed[0] < n_prompt * 2 / 3
    assert set(computed[1:]) == {1}
    assert second == text_of(loaded(tiny_model()), chat, options)


def test_the_head_sees_one_position_of_a_prompt_in_one_piece() -> None:
    model = loaded(tiny_model())
    seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def look(_: torch.nn.Module, args: tuple[torch.Tensor]) -> None:
        seen.append((tuple(args[0].shape), args[0].stride()))

    first = next(model.generate(ask(QUESTIONS[0]), GenerateOptions()))
    hook = model._model.lm_head.register_forward_hook(lambda layer, args, _: look(layer, args))
    model._conversations.forget()
    again = next(model.generate(ask(QUESTIONS[0]), GenerateOptions()))
    hook.remove()
    width = model._model.config.hidden_size
    # Of a slice the first stride is the prompt's; torch then copies the head's weights.
    assert seen == [((1, 1, width), (width, width, 1))]
    assert first == again


def test_answers_may_be_interleaved() -> None:
    model = loaded(tiny_model())
    options = GenerateOptions(max_tokens=6)
    first, second = (model.generate(ask(q), options) for q in QUESTIONS[:2])
    pieces = list(zip(first, second, strict=False))
    for place, question in enumerate(QUESTIONS[:2]):
        alone = list(loaded(tiny_model()).generate(ask(question), options))
        assert [pair[place].text for pair in pieces] == [token.text for token in alone][
            : len(pieces)
        ]


def test_generating_leaves_gradients_possible_between_two_tokens() -> None:
    stream = loaded(tiny_model()).generate(ask("asthma"), GenerateOptions(max_tokens=3))
    next(stream)
    assert not torch.is_inference_mode_enabled()


def test_an_answer_stops_at_the_context() -> None:
    model = loaded(tiny_model())
    chat = ask("blood " * 950)
    room = 1024 - model.n_prompt_tokens(chat)
    assert 0 < room < 200
    answer = list(model.generate(chat, GenerateOptions(max_tokens=500)))
    assert len(answer) == room
    assert answer[-1].finish == "length"


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_a_batch_has_the_answers_of_each_alone(architecture: Architecture) -> None:
    model = loaded(tiny_model(architecture))
    chats = [ask(question) for question in (*QUESTIONS, "blood " * 60)]
    for options in (
        GenerateOptions(max_tokens=24, repetition_penalty=1.2),
        GenerateOptions(max_tokens=24, temperature=1.5, seed=4, stop=("a", "the")),
    ):
        together = model.generate_batch(chats, options)
        alone = [list(model.generate(chat, options)) for chat in chats]
        assert [[t.text for t in answer] for answer in together] == [
            [t.text for t in answer] for answer in alone
        ]
        assert [answer[-1].finish for answer in together] == [a[-1].finish for a in alone]
    assert len({len(answer) for answer in together}) > 1, "the answers end at different times"
    assert model.generate_batch([], options) == []


def test_each_adapter_keeps_its_conversation_across_swaps(tmp_path: Path) -> None:
    model = loaded(tiny_model())
    schema = schema_for(tiny_model())
    adapters = [write_random(tmp_path / f"{n}", schema, seed=n, scale=0.3) for n in range(2)]
    options = GenerateOptions(max_tokens=6)
    chat = ask("What is asthma?")
    first = []
    for adapter in adapters:
        model.attach(adapter, schema)
        first.append(text_of(model, chat, options))
    follow_ups = [
        [*chat, ChatMessage(role="assistant", content=text), *ask("And a seizure?")]
        for text in first
    ]
    computed: list[int] = []
    hook = model._model.model.embed_tokens.register_forward_pre_hook(
        lambda _, args: computed.append(args[0].shape[1])
    )
    for adapter, follow_up in zip(adapters, follow_ups, strict=True):
        model.attach(adapter, schema)
        found = text_of(model, follow_up, options)
        n_new, n_prompt = computed[0], model.n_prompt_tokens(follow_up)
        assert n_new < n_prompt * 2 / 3
        computed.clear()
        fresh = loaded(tiny_model())
        fresh.attach(adapter, schema)
        assert found == text_of(fresh, follow_up, options)
    hook.remove()


def test_an_adapter_swapped_during_an_answer_leaves_no_mixed_conversation(tmp_path: Path) -> None:
    model = loaded(tiny_model())
    schema = schema_for(tiny_model())
    adapters = [write_random(tmp_path / f"{n}", schema, seed=n, scale=0.3) for n in range(2)]
    chat, options = ask("What is asthma?"), GenerateOptions(max_tokens=12)
    model.attach(adapters[0], schema)
    stream = model.generate(chat, options)
    next(stream)
    model.attach(adapters[1], schema)
    next(stream)
    model.attach(adapters[0], schema)
    list(stream)
    assert not model._conversations._kept
    assert text_of(model, chat, options)
    assert model._conversations._kept
