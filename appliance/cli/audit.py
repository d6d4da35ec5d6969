"""``appliance audit``: verify, show and compare the coordinator's log."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.context import Context
from federation.terminal import emit, json_option

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group("audit")
def command() -> None:
    """Check that the coordinator's log of all its acts only grows, and holds what is held here."""


@command.command("verify")
@json_option
@click.pass_obj
def verify(context: Context, as_json: bool) -> None:
    """Verify the whole log and that it holds every signed document of this hospital.

    Exits with 3 when the coordinator rewrote or shortened the log, or left something out; what
    proves it is kept.
    """
    from appliance.audit.services import verify as run

    found = run(context)
    lines = [
        f"The audit log of {found.size} entries continues all that was seen of it before.",
        f"It holds the {found.documents} signed documents that are here. "
        f"Root {short(found.root_sha256)}",
        *found.notes,
    ]
    emit(dataclasses.asdict(found), "\n".join(lines), as_json=as_json)


@command.command("show")
@click.option("--round", "number", type=int, help="Only what concerns this round.")
@json_option
@click.pass_obj
def show(context: Context, number: int | None, as_json: bool) -> None:
    """Print the entries that the last verification copied, oldest first."""
    from appliance.audit.services import entries

    for entry in entries(context):
        if number is None or entry.round == number:
            at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
            where = f"round {entry.round}" if entry.round else ""
            text = f"{entry.index:6} {at} {entry.kind:12} {where:9} {entry.hospital or '':12} "
            emit(entry.model_dump(), f"{text}{entry.detail}", as_json=as_json)


@command.command("checkpoint")
@click.option("--out", type=_FILE, help="Also write the signed checkpoint, for another hospital.")
@json_option
@click.pass_obj
def checkpoint(context: Context, out: Path | None, as_json: bool) -> None:
    """Print the newest checkpoint seen here, to be read out to another hospital.

    Two hospitals that see as many entries and the same letters see the same log. Where the number
    differs, one writes its checkpoint with --out and the other runs `appliance audit compare`.
    """
    from appliance.audit.services import last_checkpoint
    from federation.files import write_atomically

    document, found = last_checkpoint(context)
    if out is not None:
        write_atomically(out, document.to_json())
    at = datetime.fromtimestamp(found.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = f"{found.size} entries, root {short(found.root_sha256)}, signed {at}"
    emit(found.model_dump() | {"short": short(found.root_sha256)}, text, as_json=as_json)


@command.command("compare")
@click.argument("file", type=_FILE)
@json_option
@click.pass_obj
def compare(context: Context, file: Path, as_json: bool) -> None:
    """Verify that the checkpoint in FILE, of another hospital, is of the log that is seen here.

    Exits with 3 when the coordinator shows the two hospitals different logs.
    """
    from appliance.audit.services import compare as run

    theirs = run(context, file)
    text = f"The checkpoint of {theirs.size} entries is of the same log."
    emit({"size": theirs.size, "root_sha256": theirs.root_sha256}, text, as_json=as_json)


@command.command("accept")
@json_option
@click.pass_obj
def accept(context: Context, as_json: bool) -> None:
    """Begin anew from the log as it is now, once the administrator has explained a difference.

    For a coordinator that was restored from a backup. What was seen is moved aside, not removed.
    """
    from appliance.audit.services import accept as run

    moved = run(context)
    text = f"What was seen is now in {moved}." if moved else "Nothing was seen yet."
    emit({"moved": str(moved) if moved else None}, text, as_json=as_json)


def short(root_sha256: str) -> str:
    """A root to be read out: 80 bits as 5 groups of 4 digits."""
    return "-".join(root_sha256[i : i + 4] for i in range(0, 20, 4))
