"""``appliance keys``."""

from __future__ import annotations

import os

import click

from appliance.context import Context
from federation.terminal import emit, json_option


@click.group("keys")
def command() -> None:
    """Show, rotate and protect this hospital's signing keys; they never leave."""


@command.command("show")
@json_option
@click.pass_obj
def show(context: Context, as_json: bool) -> None:
    """Show the fingerprints of the keys here and how the files are protected."""
    from appliance.keys import load_keys
    from federation.signing import fingerprint, is_protected

    paths, keys = context.paths, load_keys(context.paths)
    rows = [
        {
            "which": which,
            "fingerprint": fingerprint(identity.public()),
            "file": str(path),
            "passphrase": is_protected(path),
        }
        for which, identity, path in (
            ("current", keys.current, paths.keys),
            ("next", keys.next, paths.next_keys),
            ("previous", keys.previous, paths.previous_keys),
        )
        if identity is not None
    ]
    meaning = {
        "current": "in use",
        "next": "wait for the coordinator's administrator",
        "previous": "serve only to seal for a round that opened before the rotation",
    }
    lines = [
        f"{row['fingerprint']}  {meaning[str(row['which'])]}; "
        f"{'passphrase' if row['passphrase'] else 'mode 0600, no passphrase'}; {row['file']}"
        for row in rows
    ]
    emit({"keys": rows}, "\n".join(lines), as_json=as_json)


@command.command("rotate")
@json_option
@click.pass_obj
def rotate(context: Context, as_json: bool) -> None:
    """Make new keys and ask the coordinator for them; while some wait, ask for these again.

    The present keys stay in use until the coordinator's administrator has signed the new ones:
    `appliance status`, and any command that talks to the coordinator, notices that by itself.
    Read the new fingerprint out by phone.
    """
    from dataclasses import asdict

    from appliance.rotating import rotate as ask

    done = ask(context)
    if done.status == "approved":
        text = f"The new keys {done.new_fingerprint} are in use."
    else:
        text = (
            f"New keys: {done.new_fingerprint}\nThe present ones stay in use: {done.fingerprint}\n"
            "Read the new fingerprint out to the coordinator, who now runs `coordinator approve "
            f"{done.hospital}`."
        )
    emit(asdict(done), text, as_json=as_json)


@command.command("protect")
@click.option("--remove", is_flag=True, help="Keep the keys without a passphrase, mode 0600.")
@json_option
@click.pass_obj
def protect(context: Context, remove: bool, as_json: bool) -> None:
    """Add, change or remove the passphrase of the keys.

    The present passphrase is FEDMED_PASSPHRASE, the new one FEDMED_NEW_PASSPHRASE; what is not
    set is asked for at a terminal.
    """
    from appliance.enrolment import passphrase
    from appliance.keys import protect as write
    from federation.errors import InputError
    from federation.signing import is_protected

    old = passphrase()
    if old is None and context.paths.keys.exists() and is_protected(context.paths.keys):
        old = click.prompt("Present passphrase", hide_input=True)
    new: str | None = None
    if not remove:
        new = os.environ.get("FEDMED_NEW_PASSPHRASE") or click.prompt(
            "New passphrase", hide_input=True, confirmation_prompt=True
        )
        if not new:
            raise InputError("The new passphrase is empty.", hint="--remove takes it away.")
    files = write(context.paths, old, new)
    how = "no passphrase; FEDMED_PASSPHRASE must not be set"
    if new:
        how = "the new passphrase; every command needs it in FEDMED_PASSPHRASE"
    text = f"{len(files)} key file{'s' if len(files) > 1 else ''}: {how}."
    emit({"files": [str(f) for f in files], "passphrase": bool(new)}, text, as_json=as_json)
