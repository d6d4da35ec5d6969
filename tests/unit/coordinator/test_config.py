"""Configuration: precedence, unknown keys, and the file that ``init`` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.config import (
    CoordinatorConfig,
    FederationSection,
    RoundSection,
    ServerSection,
    load_config,
)
from coordinator.context import open_coordinator
from coordinator.home import create_home, tls_files
from coordinator.paths import Paths
from federation.errors import ConfigError, InputError
from federation.recipe import TrainingRecipe
from federation.signing import Identity

HEAD = '[federation]\nname = "demo-net"\n'


def write(tmp_path: Path, text: str = "") -> Path:
    path = tmp_path / "coordinator.toml"
    path.write_text(HEAD + text, encoding="utf-8")
    return path


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, "[round]\nrank = 4\nalpha = 2.0\nbatch_size = 3\n")
    environment = {"COORDINATOR_ROUND_RANK": "5", "COORDINATOR_ROUND_ALPHA": "3"}
    found = load_config(path, environment, {"round": {"rank": "6"}}).round
    assert (found.rank, found.alpha, found.batch_size, found.accumulation) == (6, 3.0, 3, 1)
    assert found.model_fields_set >= {"rank", "alpha", "batch_size"}
    assert "accumulation" not in found.model_fields_set


def test_every_section_of_the_configuration_is_read_from_the_environment(tmp_path: Path) -> None:
    environment = {
        f"COORDINATOR_{section}_{key}".upper(): value
        for section, key, value in (
            ("federation", "name", "other"), ("server", "host", "h"), ("round", "rank", "3"),
            ("limits", "connections", "7"), ("metrics", "port", "9464"),
            ("validation", "data", "v.jsonl"),
        )
    }  # fmt: skip
    found = load_config(write(tmp_path), environment)
    sections = {"federation", "server", "round", "limits", "metrics", "validation"}
    assert set(CoordinatorConfig.model_fields) == sections
    assert (found.federation.name, found.server.host, found.round.rank) == ("other", "h", 3)
    assert (found.limits.connections, found.metrics.port) == (7, 9464)
    assert found.validation.data == "v.jsonl"


def test_lists_are_written_with_commas_outside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[round]\ntarget_modules = ["up_proj"]\n')
    assert load_config(path, {}).round.target_modules == ("up_proj",)
    given = {"COORDINATOR_ROUND_TARGET_MODULES": "q_proj, v_proj"}
    assert load_config(path, given).round.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("text", "environment", "flags", "expected"),
    [
        ("", {}, {}, (12, None)),
        ("[round]\nepochs = 2.0\n", {}, {}, (None, 2.0)),
        ("[round]\nepochs = 2.0\n", {"COORDINATOR_ROUND_STEPS": "5"}, {}, (5, None)),
        ("[round]\nsteps = 3\n", {}, {"epochs": "0.5"}, (None, 0.5)),
    ],
)
def test_the_later_of_steps_and_epochs_wins(
    tmp_path: Path,
    text: str,
    environment: dict[str, str],
    flags: dict[str, str],
    expected: tuple[int | None, float | None],
) -> None:
    found = load_config(write(tmp_path, text), environment, {"round": flags}).round
    assert (found.steps, found.epochs) == expected


def test_the_recipe_is_what_the_round_says(tmp_path: Path) -> None:
    found = load_config(write(tmp_path, "[round]\nlearning_rate = 0.01\n"), {}).round
    assert found.recipe() == TrainingRecipe(learning_rate=0.01)
    assert set(TrainingRecipe.model_fields) < set(RoundSection.model_fields)


@pytest.mark.parametrize(
    ("text", "environment", "flags", "message"),
    [
        ("[round]\nrnak = 4\n", {}, {}, "coordinator.toml: round.rnak: Extra"),
        ("[serve]\nport = 4\n", {}, {}, "coordinator.toml: serve: Extra"),
        ("", {"COORDINATOR_SERVER_PORT": "x"}, {}, "COORDINATOR_SERVER_PORT: server.port"),
        ("", {}, {"rank": "0"}, "--rank: Input should be greater than 0"),
        ("", {}, {"steps": "3", "epochs": "0"}, "--epochs"),
        ("round = 3\n", {}, {}, "round must be a table|Extra"),
        ("[round\n", {}, {}, "cannot be read"),
        ("deep = " + "[" * 5000, {}, {}, "cannot be read"),
    ],
)
def test_mistakes_are_named_with_their_place(
    tmp_path: Path, text: str, environment: dict[str, str], flags: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_config(write(tmp_path, text), environment, {"round": flags})


def test_without_a_home_the_remedy_is_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no coordinator at") as caught:
        load_config(tmp_path / "coordinator.toml", {})
    assert "coordinator init" in caught.value.hint


def test_the_file_that_init_writes_is_read_back(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "home")
    server = ServerSection(host="0.0.0.0", port=9000, url='https://a.example/"q"\\')
    create_home(paths, FederationSection(name="demo-net"), server)
    found = load_config(paths.config, {})
    assert found.server == server
    assert found.federation.name == "demo-net"
    assert found.round == RoundSection()


def test_init_refuses_to_overwrite(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "home")
    create_home(paths, FederationSection(name="demo-net"), ServerSection())
    before = {p: p.read_bytes() for p in paths.home.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match="already"):
        create_home(paths, FederationSection(name="demo-net"), ServerSection())
    assert before == {p: p.read_bytes() for p in paths.home.rglob("*") if p.is_file()}


@pytest.mark.parametrize("unmade", ["admin", "tls", "database"])
def test_an_init_that_was_cut_off_can_be_repeated(tmp_path: Path, unmade: str) -> None:
    paths = Paths(tmp_path / "home")
    first = create_home(paths, FederationSection(name="demo-net"), ServerSection())
    paths.config.unlink()
    for path in {
        "admin": [paths.identity, paths.wrapping_key, paths.admin_public, paths.database],
        "tls": [*paths.tls.iterdir(), paths.database],
        "database": [paths.database],
    }[unmade]:
        path.unlink()
    again = create_home(paths, FederationSection(name="demo-net"), ServerSection())
    assert again.admin != first.admin
    assert Identity.load(again.admin_key).public() == again.admin
    roster = open_coordinator(paths, load_config(paths.config, {})).roster()
    assert (roster.version, roster.federation) == (0, "demo-net")


def test_init_never_replaces_a_key_at_a_place_of_ones_own(tmp_path: Path) -> None:
    usb = tmp_path / "usb.pem"
    Identity.generate().save(usb)
    before = usb.read_bytes()
    paths = Paths(tmp_path / "home")
    with pytest.raises(InputError, match=r"usb\.pem exists already") as caught:
        create_home(paths, FederationSection(name="n"), ServerSection(), admin_key=usb)
    assert "--admin-key" in caught.value.hint
    assert usb.read_bytes() == before
    assert not paths.home.exists()


def test_init_never_replaces_a_home_that_lost_its_configuration(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "home")
    create_home(paths, FederationSection(name="n"), ServerSection())
    (paths.adapters / "a.safetensors").touch()
    paths.config.unlink()
    before = {p: p.read_bytes() for p in paths.home.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"no coordinator\.toml") as caught:
        create_home(paths, FederationSection(name="n"), ServerSection())
    assert "Restore" in caught.value.hint
    assert before == {p: p.read_bytes() for p in paths.home.rglob("*") if p.is_file()}


def test_secrets_are_only_the_owners(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "home")
    made = create_home(
        paths, FederationSection(name="n"), ServerSection(), admin_key=tmp_path / "usb" / "a.pem"
    )
    tls_files(paths, load_config(paths.config, {}))
    assert made.admin_key == tmp_path / "usb" / "a.pem"
    secrets = [*paths.keys.iterdir(), made.admin_key, *paths.tls.glob("*.key")]
    assert len(secrets) == 5
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*secrets, paths.home))


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (ServerSection(host="0.0.0.0"), "cannot connect to 0.0.0.0"),
        (ServerSection(url="http://a.example"), "not an https"),
        (ServerSection(tls_cert="/nowhere.crt"), "together"),
        (ServerSection(tls_cert="/nowhere.crt", tls_key="/nowhere.key"), "no file /nowhere.crt"),
    ],
)
def test_addresses_and_certificates_that_cannot_work_are_refused(
    tmp_path: Path, server: ServerSection, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        create_home(Paths(tmp_path / "home"), FederationSection(name="n"), server)
    assert not (tmp_path / "home").exists()
