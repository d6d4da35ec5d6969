"""``appliance adapter``: adapters leave as folders of other programs and come back, checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from appliance import adapters
from appliance.adapters import CARD_NAME, AdapterCard
from appliance.cli import cli
from appliance.paths import Paths
from backends.peft_config import CONFIG_NAME, WEIGHTS_NAME
from federation.base_model import read_card
from federation.canonical import file_sha256
from federation.terminal import run
from tests.tiny import build_tiny_model, tiny_model
from tests.tiny_training import schema_for, write_random

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An appliance with a base model, a local adapter and a global one of round 2."""
    home = tmp_path / "home"
    monkeypatch.setenv("FEDMED_HOME", str(home))
    shutil.copytree(tiny_model(), home / "models" / "tiny")
    paths = Paths(home)
    store(paths.adapters / "local", tmp_path / "local.safetensors", "local training")
    store(adapters.global_folder(paths, 2), tmp_path / "global.safetensors", "round 2")
    return home


def store(folder: Path, source: Path, origin: str) -> None:
    schema = schema_for(tiny_model(), ("q_proj", "v_proj"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_random(source, schema, seed=len(origin), scale=0.3)
    base = read_card(tiny_model())
    card = AdapterCard(
        base_name=base.name,
        base_sha256=base.sha256,
        adapter_schema=schema,
        sha256=file_sha256(source),
        origin=origin,
    )
    adapters.store(folder, card, lambda target: shutil.copyfile(source, target) and None)


def as_json(capsys: Captured, *arguments: str) -> dict[str, object]:
    assert run(cli, [*arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: Captured, *arguments: str) -> str:
    code = run(cli, ["adapter", *arguments])
    error = capsys.readouterr().err
    assert code in (2, 6), error
    assert "  -> " in error
    return error


def test_an_empty_appliance_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    assert run(cli, ["adapter", "list"]) == 0
    assert capsys.readouterr().out == "There is no adapter here yet.\n"


def test_list_and_show(home: Path, capsys: Captured) -> None:
    assert run(cli, ["adapter", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "local  for tiny-llama  rank 8 on q_proj, v_proj; 0.00 M parameters  (local training)",
        "round:2  for tiny-llama  rank 8 on q_proj, v_proj; 0.00 M parameters  (round 2)",
        "`global` is round:2.",
    ]
    shown = as_json(capsys, "adapter", "show", "global")
    assert (shown["intact"], shown["base_installed"], shown["scale"]) == (True, True, 2.0)
    weights = adapters.global_folder(Paths(home), 2) / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert run(cli, ["adapter", "show", "round:2"]) == 0
    assert "intact         no\n" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["peft", "mlx"])
def test_what_was_exported_comes_back_byte_for_byte(
    home: Path, tmp_path: Path, capsys: Captured, form: str
) -> None:
    folder = tmp_path / "away"
    assert run(cli, ["adapter", "export", "local", str(folder), "--format", form]) == 0
    imported = as_json(capsys_cleared(capsys), "adapter", "import", str(folder), "--name", "back")
    original, copy = (adapters.find(Paths(home), name) for name in ("local", "back"))
    assert original is not None
    assert copy is not None
    assert copy.card == original.card
    assert imported["sha256"] == original.card.sha256
    for name in (WEIGHTS_NAME, CONFIG_NAME, CARD_NAME):
        assert (copy.folder / name).read_bytes() == (original.folder / name).read_bytes()
    assert adapters.choices(Paths(home)) == ["base", "local", "global", "round:2", "back"]


def capsys_cleared(capsys: Captured) -> Captured:
    capsys.readouterr()
    return capsys


def test_an_imported_adapter_answers_like_the_original(
    home: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "north"
    assert run(cli, ["adapter", "export", "local", str(folder), "--format", "mlx"]) == 0
    assert run(cli, ["adapter", "import", str(folder)]) == 0
    capsys.readouterr()
    answers = {}
    for name in ("base", "local", "north"):
        assert run(cli, ["ask", "--adapter", name, "--max-tokens", "12", "What is a cold?"]) == 0
        answers[name] = capsys.readouterr().out
    assert answers["north"] == answers["local"] != answers["base"]


def test_an_adapter_for_another_base_is_refused(
    home: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "away"
    assert run(cli, ["adapter", "export", "local", str(folder)]) == 0
    assert run(cli, ["adapter", "import", str(folder)]) == 0
    shutil.rmtree(home / "models" / "tiny")
    build_tiny_model(home / "models" / "other", seed=1)
    assert "No installed base model has digest" in refused(
        capsys, "import", str(folder), "--name", "again"
    )
    error = refused(capsys, "import", str(folder), "--name", "again", "--base", "other")
    assert "other has digest" in error
    assert run(cli, ["ask", "--adapter", "away", "What is a cold?"]) == 2
    assert "No installed base model has digest" in capsys.readouterr().err
    (home / "appliance.toml").write_text('[model]\nname = "other"\n')
    assert run(cli, ["ask", "--adapter", "away", "What is a cold?"]) == 2
    assert "That adapter is for another base model than other" in capsys.readouterr().err
    (folder / CARD_NAME).unlink()
    config = json.loads((folder / CONFIG_NAME).read_text())
    config["target_modules"] = [
        path.replace("q_proj", "k_proj") for path in config["target_modules"]
    ]
    (folder / CONFIG_NAME).write_text(json.dumps(config))
    assert "lacks 4 tensors" in refused(capsys, "import", str(folder), "--name", "again")


def test_a_foreign_adapter_says_where_it_comes_from(
    home: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "theirs"
    assert run(cli, ["adapter", "export", "local", str(folder)]) == 0
    (folder / CARD_NAME).unlink()
    found = as_json(capsys_cleared(capsys), "adapter", "import", str(folder))
    assert found["origin"] == "imported from the peft folder theirs, trained on tiny-llama"
    assert found["base_sha256"] == read_card(tiny_model()).sha256


def test_damage_is_found_on_both_ways(home: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "away"
    assert run(cli, ["adapter", "export", "local", str(folder)]) == 0
    weights = folder / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "is not the file that" in refused(capsys, "import", str(folder))
    (folder / CARD_NAME).write_text("{}")
    assert "cannot be read" in refused(capsys, "import", str(folder))
    stored = home / "adapters" / "local" / WEIGHTS_NAME
    stored.write_bytes(stored.read_bytes()[:-1] + b"x")
    assert "is not the file that" in refused(capsys, "export", "local", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_names_and_folders_that_cannot_be(home: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "away"
    assert run(cli, ["adapter", "export", "local", str(folder)]) == 0
    assert "exists" in refused(capsys, "export", "local", str(folder))
    assert "is no adapter" in refused(capsys, "export", "base", str(tmp_path / "x"))
    assert "no adapter 'a b'" in refused(capsys, "show", "a b")
    assert "no nobody adapter here" in refused(capsys, "show", "nobody")
    for name in ("local", "../x", "a:b"):
        assert "cannot be called" in refused(capsys, "import", str(folder), "--name", name)
    assert run(cli, ["adapter", "import", str(folder)]) == 0
    assert "already" in refused(capsys, "import", str(folder))
    assert run(cli, ["adapter", "import", str(folder), "--replace"]) == 0
    (tmp_path / "empty").mkdir()
    assert "holds neither of" in refused(capsys, "import", str(tmp_path / "empty"))
    shutil.copy(folder / WEIGHTS_NAME, folder / "adapters.safetensors")
    assert "holds both of" in refused(capsys, "import", str(folder), "--name", "both")


def test_only_imported_adapters_can_be_removed(
    home: Path, tmp_path: Path, capsys: Captured
) -> None:
    folder = tmp_path / "away"
    assert run(cli, ["adapter", "export", "local", str(folder)]) == 0
    assert run(cli, ["adapter", "import", str(folder)]) == 0
    assert run(cli, ["adapter", "remove", "away"]) == 0
    assert adapters.imported_names(Paths(home)) == []
    assert "no imported adapter 'away'" in refused(capsys, "remove", "away")
    assert "cannot be called 'local'" in refused(capsys, "remove", "local")
    assert (home / "adapters" / "local").is_dir()
