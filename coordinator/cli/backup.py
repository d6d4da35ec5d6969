"""``coordinator backup``."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.cli import load_coordinator
from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.command("backup")
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def command(paths: Paths, folder: Path, as_json: bool) -> None:
    """Copy this coordinator to the new FOLDER; the server may go on meanwhile.

    The copy holds the database, the adapters, the updates of an open round (sealed), the
    coordinator's own keys and its certificates. It does not hold keys/wrapping.pem, without which
    nobody opens an update: keep a copy of that file elsewhere. It does not hold the admin key.
    FOLDER appears when it is whole; the coordinator's keys sign what is in it, and `coordinator
    restore` checks every byte.
    """
    from coordinator.backup import back_up
    from federation.signing import fingerprint

    made = back_up(load_coordinator(paths), paths, folder.absolute())
    signer = fingerprint(made.signer)
    emit(
        {
            "folder": str(folder.absolute()),
            "files": len(made.files),
            "bytes": made.n_bytes,
            "round": made.round,
            "state": made.state,
            "fingerprint": signer,
        },
        f"{folder} holds {len(made.files)} files, {made.n_bytes >> 20} MiB"
        + (f"; round {made.round} was {made.state}.\n" if made.round else ".\n")
        + f"Signed by {signer}: `coordinator restore` asks for that fingerprint.\n"
        f"Not in it, to be kept elsewhere: {paths.wrapping_key} and the admin key.",
        as_json=as_json,
    )
