"""The command line: what it prints, its exit codes, and how fast it answers --help."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import COMMANDS, cli
from coordinator.config import RoundSection, load_config
from coordinator.context import open_coordinator
from coordinator.enrolment import enrol
from coordinator.paths import Paths
from federation.membership import EnrolmentRequest, Invite
from federation.signing import Identity, SignedDocument, fingerprint
from federation.terminal import run
from tests.unit.coordinator.world import CARD

PROGRAM = [sys.executable, "-c", "from coordinator.cli import main; main()"]

Command = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command with --json in a home; answers exit code, output, and the error text."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[int, dict[str, Any], str]:
        code = run(cli, ["--home", str(folder / "home"), *arguments, "--json"])
        out, error = capsys.readouterr()
        return code, json.loads(out) if out.strip() else {}, error

    return call


@pytest.fixture
def made(command: Command) -> dict[str, Any]:
    code, out, error = command("init", "--federation", "demo-net", "--port", "9443")
    assert code == 0, error
    return out


def join(folder: Path, command: Command, name: str) -> Identity:
    """Invite and enrol, as the hospital would over HTTPS."""
    _, out, _ = command("invite", name)
    invite = Invite.model_validate_json(Path(out["file"]).read_bytes())
    paths = Paths(folder / "home")
    coordinator = open_coordinator(paths, load_config(paths.config))
    identity = Identity.generate()
    request = EnrolmentRequest(
        federation="demo-net", hospital=name, token=invite.token, identity=identity.public()
    )
    enrol(coordinator, SignedDocument.sign(request, identity, "enrolment"))
    return identity


def test_a_federation_from_the_command_line(
    folder: Path, command: Command, made: dict[str, Any]
) -> None:
    assert made["url"] == "https://127.0.0.1:9443"
    identity = join(folder, command, "h01")
    shown = fingerprint(identity.public())
    code, out, _ = command("approve", "h01", "--fingerprint", shown)
    assert (code, out["fingerprint"]) == (0, shown)
    (folder / "card.json").write_bytes(CARD.to_json())
    shape = ("--target-modules", "q_proj", "--rank", "2")
    code, out, error = command("round", "open", "--base", str(folder / "card.json"), *shape)
    assert code == 0, error
    assert (out["round"], out["state"], out["quorum"]) == (1, "open", 1)
    code, _, error = command("round", "close")
    assert code == 5
    assert "0 of 1 needed updates" in json.loads(error)["message"]
    code, out, _ = command("round", "close", "--abort")
    assert (code, out["state"], out["reason"]) == (0, "aborted", "aborted by the administrator")
    assert command("round", "close")[0] == 5
    code, out, _ = command("status")
    assert (out["state"], out["hospitals"][0]["state"]) == ("aborted", "silent")
    assert command("revoke", "h01")[1]["roster_version"] == 2
    assert command("status")[1]["hospitals"] == []


def test_people_get_sentences(
    folder: Path, command: Command, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = fingerprint(join(folder, command, "h01").public())
    home = ["--home", str(folder / "home")]
    assert run(cli, [*home, "approve", "h01", "--fingerprint", shown]) == 0
    assert "is on the roster, version 1, with 1 hospitals" in capsys.readouterr().out
    assert run(cli, [*home, "status"]) == 0
    assert "Federation demo-net: no round yet\n  h01" in capsys.readouterr().out
    assert run(cli, [*home, "round", "open"]) == 2
    assert capsys.readouterr().err == (
        "Error: The first round needs a base model.\n"
        "  -> Give --base: a model folder, or its card fedmed-base.json.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("init", "--federation", "demo-net"), 2, "already"),
        (("invite", "Not A Name"), 2, "hospital"),
        (("approve", "h07"), 2, "has not enrolled"),
        (("revoke", "h07", "--admin-key", "nowhere.pem"), 3, "nowhere.pem"),
        (("round", "open", "--rank", "many"), 2, "--rank"),
        (("round", "open"), 2, "roster is empty"),
        (("round", "close"), 5, "No round is open"),
    ],
)
def test_mistakes_have_a_message_and_an_exit_code(
    command: Command, made: dict[str, Any], arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, error = command(*arguments)
    assert (found, out) == (code, {})
    assert message in json.loads(error)["message"]


def test_another_key_is_not_the_admin(folder: Path, command: Command, made: dict[str, Any]) -> None:
    seen = ("--fingerprint", fingerprint(join(folder, command, "h01").public()))
    Identity.generate().save(folder / "mine.pem")
    code, _, error = command("approve", "h01", *seen, "--admin-key", str(folder / "mine.pem"))
    assert code == 3
    assert "not the federation's admin key" in json.loads(error)["message"]
    wrong = command("approve", "h01", "--fingerprint", "AAAA-AAAA-AAAA-AAAA-AAAA")
    assert wrong[0] == 3


def members(folder: Path) -> list[str]:
    paths = Paths(folder / "home")
    roster = open_coordinator(paths, load_config(paths.config)).roster()
    return [member.hospital for member in roster.members]


@pytest.mark.parametrize("as_json", [True, False])
def test_nobody_is_approved_unseen(
    folder: Path, command: Command, made: dict[str, Any], as_json: bool
) -> None:
    join(folder, command, "h01")
    arguments = [*PROGRAM, "--home", str(folder / "home"), "approve", "h01"]
    done = subprocess.run(
        [*arguments, *(["--json"] if as_json else [])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--fingerprint" in done.stderr
    assert members(folder) == []


def test_json_asks_for_the_fingerprint_at_a_terminal_too(
    folder: Path, command: Command, made: dict[str, Any], terminal: tuple[int, int]
) -> None:
    join(folder, command, "h01")
    done = subprocess.run(
        [*PROGRAM, "--home", str(folder / "home"), "approve", "h01", "--json"],
        stdin=terminal[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "--fingerprint" in json.loads(done.stderr)["hint"]
    assert members(folder) == []


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 130), (b"\n", 130), (b"y\n", 0)])
def test_at_a_terminal_the_fingerprint_is_shown_and_confirmed(
    folder: Path,
    command: Command,
    made: dict[str, Any],
    terminal: tuple[int, int],
    answer: bytes,
    code: int,
) -> None:
    shown = fingerprint(join(folder, command, "h01").public())
    os.write(terminal[0], answer)
    done = subprocess.run(
        [*PROGRAM, "--home", str(folder / "home"), "approve", "h01"],
        stdin=terminal[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert f"h01 enrolled with the fingerprint {shown}." in done.stdout
    assert "Did the hospital read out the same? [y/N]" in done.stdout
    assert members(folder) == (["h01"] if code == 0 else [])


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Both ends of a pseudo-terminal: the person's and the program's."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        os.close(end)


def test_without_a_home_the_remedy_is_said(command: Command) -> None:
    for arguments in (("status",), ("serve",), ("invite", "h01"), ("round", "open")):
        code, _, error = command(*arguments)
        assert code == 2
        assert "coordinator init" in json.loads(error)["hint"]
    assert command("paths")[0] == 0


def test_every_field_of_a_round_is_an_option_with_its_description(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(cli, ["round", "open", "--help"]) == 0
    # The help is wrapped at spaces and hyphens.
    shown = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    for name, field in RoundSection.model_fields.items():
        assert f"--{name.replace('_', '-')} " in shown
        assert field.description
        assert field.description in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, [name, "--help"]) == 0
    assert "Usage" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from coordinator.cli import cli, run; run(cli, ['--help']);"
        "print([m for m in ('numpy', 'fastapi', 'uvicorn', 'sqlalchemy', 'pydantic')"
        " if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("[]\n")
