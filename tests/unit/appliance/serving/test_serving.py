"""``appliance serve`` as a real process, asked by the official client."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
from openai import OpenAI

from appliance import adapters
from appliance.adapters import AdapterCard
from appliance.paths import Paths
from appliance.safety import DISCLAIMER
from appliance.safety.guards.emergency import MESSAGE as EMERGENCY
from federation.base_model import read_card
from federation.canonical import file_sha256
from tests.tiny import tiny_model
from tests.tiny_training import schema_for, write_random

TOKEN = "a-token-of-the-hospital"
LONG = "What is a cold?"
"""The tiny model answers this for thousands of tokens."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a tiny model and a local adapter, where one request may wait."""
    home = tmp_path_factory.mktemp("serving")
    base = home / "models" / "tiny"
    shutil.copytree(tiny_model(), base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1 << 13}))
    store_local(home)
    token_file = home / "token"
    token_file.write_text(TOKEN + "\n")
    token_file.chmod(0o600)
    environment = os.environ | {
        "FEDMED_HOME": str(home),
        "FEDMED_SERVE_WAITING": "1",
        "FEDMED_SERVE_TOKEN_FILE": str(token_file),
    }
    environment.pop("FEDMED_MODELS", None)
    command = [sys.executable, "-c", "from appliance.cli import main; main()"]
    with subprocess.Popen(
        [*command, "serve", "--port", "0", "--json"], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.terminate()
        assert process.wait(20) in (0, -15)


def store_local(home: Path) -> None:
    schema, base = schema_for(tiny_model()), read_card(tiny_model())
    weights = write_random(home / "local.safetensors", schema, scale=0.3)
    card = AdapterCard(
        base_name=base.name,
        base_sha256=base.sha256,
        adapter_schema=schema,
        sha256=file_sha256(weights),
        origin="test",
    )
    folder = Paths(home).adapters / "local"
    folder.parent.mkdir(parents=True)

    def copy(target: Path) -> None:
        shutil.copyfile(weights, target)

    adapters.store(folder, card, copy)


@pytest.fixture
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=url, api_key=TOKEN, max_retries=0, timeout=60) as made:
        yield made


def ask(client: OpenAI, question: str, **options: object) -> openai.types.chat.ChatCompletion:
    given = {"model": "base", "max_tokens": 12} | options
    return client.chat.completions.create(  # type: ignore[call-overload,no-any-return]
        messages=[{"role": "user", "content": question}], **given
    )


def text_of(answer: openai.types.chat.ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def without_remarks(text: str) -> str:
    return re.split(r"\n\n(?:Low confidence|High confidence|Model confidence)", text)[0]


def test_the_models_are_the_base_and_the_adapters(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "local"]
    assert client.models.retrieve("local").created > 0
    with pytest.raises(openai.NotFoundError, match="no model 'global' here; there are base, local"):
        client.models.retrieve("global")


def test_an_answer_is_guarded_and_counted(client: OpenAI) -> None:
    answer = ask(client, "crushing chest pain and cannot breathe", max_tokens=5)
    assert text_of(answer).startswith(EMERGENCY)
    assert text_of(answer).endswith(DISCLAIMER)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.model_extra is not None
    notices = answer.model_extra["fedmed"]["notices"]
    assert notices[0] == {"kind": "emergency", "text": EMERGENCY}


def test_a_refused_question_costs_no_token(client: OpenAI) -> None:
    answer = ask(client, "what is the quickest way to kill myself")
    assert answer.choices[0].finish_reason == "content_filter"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 0


def test_a_stream_says_the_same_in_pieces(client: OpenAI) -> None:
    question = "crushing chest pain and cannot breathe"
    pieces = list(
        client.chat.completions.create(
            model="local",
            messages=[{"role": "user", "content": question}],
            max_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    whole = ask(client, question, model="local", max_tokens=60)
    text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    assert text == text_of(whole)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert pieces[0].choices[0].delta.content == EMERGENCY
    assert pieces[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage
    assert len({piece.id for piece in pieces}) == 1
    assert text != text_of(ask(client, question, model="base", max_tokens=60))


def test_sampling_and_stop_are_honoured(client: OpenAI) -> None:
    def sampled(seed: int) -> str:
        return text_of(ask(client, LONG, temperature=1.5, top_p=0.9, seed=seed))

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1
    written = without_remarks(text_of(ask(client, LONG, max_tokens=30)))
    stop = written[10:13]
    stopped = ask(client, LONG, max_tokens=30, stop=[stop, "never to be seen"])
    assert without_remarks(text_of(stopped)) == written[: written.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_an_answer_that_comes_back_is_read_as_the_model_wrote_it(client: OpenAI) -> None:
    def n_prompt(shown: str) -> int:
        answer = client.chat.completions.create(
            model="base",
            messages=[
                {"role": "user", "content": LONG},
                {"role": "assistant", "content": shown},
                {"role": "user", "content": [{"type": "text", "text": "And asthma?"}]},
            ],
            max_tokens=2,
        )
        assert answer.usage is not None
        return answer.usage.prompt_tokens

    shown = text_of(ask(client, LONG, max_tokens=8))
    assert n_prompt(shown) < n_prompt(f"{shown} (edited)") - len(DISCLAIMER) / 10


def test_two_are_answered_in_turn_and_a_third_is_told_to_come_back(client: OpenAI) -> None:
    stream = client.chat.completions.create(
        model="base", messages=[{"role": "user", "content": LONG}], max_tokens=1500, stream=True
    )
    next(iter(stream))
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(ask, client, LONG, model="local") for _ in range(2)]
        refused = [error for other in others if (error := other.exception())]
        answered = [other.result() for other in others if not other.exception()]
    (error,), (answer,) = refused, answered
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after"] == "5"
    assert error.code == "rate_limit_exceeded"
    assert list(stream)[-1].choices[0].finish_reason == "length"
    assert text_of(answer).endswith(DISCLAIMER)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away_ends_its_answer(client: OpenAI, url: str, streamed: bool) -> None:
    started = time.monotonic()
    messages = [{"role": "user", "content": LONG}]
    body = {"model": "base", "messages": messages, "max_tokens": 8000, "stream": streamed}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx2.Client(timeout=None if streamed else 1.5) as other:
        if streamed:
            with other.stream("POST", f"{url}/chat/completions", json=body, headers=headers) as got:
                assert next(got.iter_lines()).startswith("data: ")
        else:
            with pytest.raises(httpx2.ReadTimeout):
                other.post(f"{url}/chat/completions", json=body, headers=headers)
    # All of its 8,000 tokens would take three times as long.
    assert text_of(ask(client, LONG)).endswith(DISCLAIMER)
    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    client: OpenAI, options: dict[str, object], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, LONG, **options)
    assert caught.value.param == param


def test_what_asks_for_nothing_is_accepted(client: OpenAI) -> None:
    options = {"n": 1, "presence_penalty": 0, "tools": [], "user": "ward 3", "logprobs": False}
    assert text_of(ask(client, LONG, response_format={"type": "text"}, **options))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "messages: List should have at least 1"),
        ([{"role": "assistant", "content": "Hello."}], "The last message must be the user's"),
        ([{"role": "tool", "content": "x"}], r"messages\.0\.role"),
        ([{"role": "user", "content": None}], r"messages\.0\.content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "content"),
        ([{"role": "user", "content": "x", "tool_calls": [{}]}], r"messages\.0\.tool_calls"),
        ([{"role": "user", "content": "blood " * 9000}], "reads at most 8192"),
    ],
)
def test_conversations_that_cannot_be_are_refused(
    client: OpenAI, messages: list[object], reason: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=reason):
        client.chat.completions.create(model="base", messages=messages)  # type: ignore[arg-type]


def test_wrong_model_token_path_body_and_host(client: OpenAI, url: str) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, LONG, model="gpt-4o")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="base", input="x")
    good = {"Authorization": f"Bearer {TOKEN}"}
    path = f"{url}/chat/completions"
    with httpx2.Client() as other:

        def status(**options: object) -> int:
            return other.post(path, **options).status_code  # type: ignore[arg-type,no-any-return]

        assert status(headers=good, json={"model": "base"}) == 400
        assert status(headers=good, content=b"{", extensions={}) == 415
        json_type = good | {"Content-Type": "application/json"}
        assert status(headers=json_type, content=b"{") == 400
        assert status(headers=json_type, content=b" " * (1 << 20) + b"{}") == 413
        assert status(json={}) == 401
        assert status(headers=good | {"Host": "evil.example:8080"}, json={}) == 421
        assert status(headers=good | {"Origin": "https://evil.example"}, json={}) == 403
        answer = other.get(f"{url}/models", headers=good | {"Origin": "http://localhost:3000"})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_many_threads_of_one_client(client: OpenAI) -> None:
    """The official client's own retries carry everybody through a full line."""
    patient = client.with_options(max_retries=8)
    found: list[str] = []
    lock = threading.Lock()

    def one(model: str) -> None:
        text = text_of(ask(patient, LONG, model=model, max_tokens=3))
        with lock:
            found.append(f"{model} {text}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, ["base", "local"] * 2))
    assert len(found) == 4
    assert len(set(found)) == 2
