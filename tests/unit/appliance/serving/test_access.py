"""Who may ask: the address, the token and the names of the server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from appliance.cli import cli
from appliance.serving.access import TOKEN_VARIABLE, is_loopback, read_token
from federation.errors import ConfigError
from federation.terminal import run

GOOD = "sixteen-or-more-characters"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("localhost.evil.example", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDMED_HOME", str(tmp_path))
    return tmp_path


def token_file(folder: Path, text: str, mode: int = 0o600) -> str:
    file = folder / "token"
    file.write_text(text)
    file.chmod(mode)
    return str(file)


def test_the_environment_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = token_file(home, f"  {GOOD}\n")
    assert read_token("") is None
    assert read_token(file) == GOOD
    monkeypatch.setenv(TOKEN_VARIABLE, GOOD.upper())
    assert read_token(file) == GOOD.upper()


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        ("short", 0o600, "16 or more"),
        ("", 0o600, "16 or more"),
        (GOOD + "é", 0o600, "cannot be read"),
        (GOOD, 0o640, "Others than its owner"),
        (GOOD, 0o604, "Others than its owner"),
    ],
)
def test_a_token_that_is_no_secret_is_refused(
    home: Path, text: str, mode: int, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        read_token(token_file(home, text, mode))


def test_an_absent_token_file_is_named(home: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere cannot be read"):
        read_token(str(home / "nowhere"))


def test_others_are_let_in_only_with_a_token(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(cli, ["serve", "--host", "0.0.0.0"]) == 2
    error = capsys.readouterr().err
    assert "Without a token nothing may listen on 0.0.0.0" in error
    assert f"  -> Set token_file in [serve], or {TOKEN_VARIABLE}" in error
    # With one it goes on, to what is wrong next.
    file = token_file(home, GOOD)
    (home / "appliance.toml").write_text(f'[serve]\nhost = "0.0.0.0"\ntoken_file = "{file}"\n')
    assert run(cli, ["serve", "--port", "0"]) == 2
    assert "No base model is installed" in capsys.readouterr().err


def test_a_taken_port_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert run(cli, ["serve", "--port", str(other.getsockname()[1])]) == 2
    assert "Cannot listen on 127.0.0.1:" in capsys.readouterr().err


def test_further_host_names_come_from_the_environment_as_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from appliance.context import Context

    monkeypatch.setenv("FEDMED_SERVE_HOST_NAMES", "ai.hospital.example proxy")
    assert Context.open(home).config.serve.host_names == ("ai.hospital.example", "proxy")
