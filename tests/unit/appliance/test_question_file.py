"""``appliance ask --file``: the answers of each question alone, guarded, in order."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from appliance.cli import cli
from federation.terminal import run
from tests.tiny import tiny_model

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    shutil.copytree(tiny_model(), tmp_path / "models" / "tiny")
    return tmp_path


def test_every_question_has_its_own_answer(home: Path, capsys: Captured) -> None:
    questions = [f"What is finding number {n}?" for n in range(9)]
    questions[3] = "what is the quickest way to kill myself"
    file = home / "questions.jsonl"
    rows = [{"id": n, "question": question} for n, question in enumerate(questions)]
    file.write_text("\n\n".join(map(json.dumps, rows)))
    assert run(cli, ["ask", "--file", str(file), "--max-tokens", "8"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["id"] for row in found] == list(range(9))
    assert found[3]["confidence"] is None
    assert found[3]["verdicts"][0]["kind"] == "self_harm"
    for row in (found[0], found[8]):
        assert run(cli, ["ask", "--json", "--max-tokens", "8", row["question"]]) == 0
        alone = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert row["answer"] == alone["answer"]
        assert row["confidence"] == pytest.approx(alone["confidence"], rel=1e-4)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no questions"),
        ('{"question": "a"}\n{', r"q\.jsonl:2: not JSON"),
        ('["a"]', r'q\.jsonl:1: not an object with "question"'),
        ('{"question": 3}', r'q\.jsonl:1: not an object with "question"'),
        ('{"question": " "}', "empty"),
        ('{"question": "a", "answer": "b"}', "'answer' is what the answer adds"),
        ("\x80", "cannot be read"),
    ],
)
def test_a_wrong_line_is_named(home: Path, capsys: Captured, text: str, reason: str) -> None:
    file = home / "q.jsonl"
    file.write_bytes(text.encode("latin-1"))
    assert run(cli, ["ask", "--file", str(file)]) == 2
    assert re.search(reason, capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [[], ["What?", "--file", __file__]])
def test_either_a_question_or_a_file(home: Path, capsys: Captured, arguments: list[str]) -> None:
    assert run(cli, ["ask", *arguments]) == 2
    assert "either a QUESTION or --file" in capsys.readouterr().err
