from __future__ import annotations

import json
from pathlib import Path

import pytest

from appliance.cli import cli
from federation.base_model import read_card
from federation.terminal import run
from tests.tiny import tiny_model

SHA256 = read_card(tiny_model()).sha256


@pytest.fixture
def home(tmp_path: Path) -> list[str]:
    return ["--home", str(tmp_path / "home")]


def test_pull_then_list_for_a_person(home: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, [*home, "models", "list"]) == 0
    assert "No base model is installed" in capsys.readouterr().out
    assert run(cli, [*home, "models", "pull", str(tiny_model()), "--name", "tiny"]) == 0
    out, err = capsys.readouterr()
    assert "Installed tiny in" in out
    assert f"sha256 {SHA256}" in out
    assert "copy     model.safetensors" in err
    assert run(cli, [*home, "models", "list"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("tiny  ")
    assert "smollm2-135m-instruct  (not installed)" in out


def test_pull_and_list_as_json(home: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*home, "models", "pull", str(tiny_model()), "--name", "tiny", "--json"]
    assert run(cli, arguments) == 0
    out, err = capsys.readouterr()
    path = str(Path(home[1]) / "models" / "tiny")
    assert json.loads(out) == {
        "name": "tiny",
        "sha256": SHA256,
        "n_bytes": read_card(tiny_model()).n_bytes,
        "path": path,
        "installed": True,
    }
    assert err == ""
    assert run(cli, arguments) == 0
    assert json.loads(capsys.readouterr().out)["installed"] is False
    assert run(cli, [*home, "models", "list", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    (model,) = listing["installed"]
    assert (model["name"], model["sha256"], model["linears"]) == ("tiny", SHA256, 14)
    assert "smollm2-135m-instruct" in [known["name"] for known in listing["available"]]


def test_a_wrong_source_or_digest_ends_with_exit_code_2(
    home: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, [*home, "models", "pull", "nothing", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"] == "invalid-model"
    assert run(cli, [*home, "models", "pull", str(tiny_model()), "--sha256", "0" * 64]) == 2
    assert "another model" in capsys.readouterr().err
