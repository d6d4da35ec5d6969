"""``coordinator keys``."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.cli import load_admin, load_coordinator
from coordinator.clock import utc
from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.group("keys")
def command() -> None:
    """Show and replace the coordinator's keys."""


@command.command("show")
@json_option
@click.pass_obj
def show(paths: Paths, as_json: bool) -> None:
    """Show the fingerprints of the keys that sign, and which keys they came from.

    `appliance status` shows the coordinator's at a hospital. `coordinator restore` asks for it:
    keep it on paper.
    """
    from federation.signing import fingerprint

    coordinator = load_coordinator(paths)
    own, admin = fingerprint(coordinator.identity.public()), fingerprint(coordinator.admin)
    before = [link.claimed() for link in coordinator.store.successions.chain().links]
    rows = [
        {"number": s.number, "fingerprint": fingerprint(s.former), "replaced_at": s.at}
        for s in before
    ]
    lines = [f"{own}  the coordinator's, in use", f"{admin}  the administrator's"]
    lines += [f"{fingerprint(s.former)}  the coordinator's until {utc(s.at)}" for s in before]
    data = {"coordinator": own, "administrator": admin, "successions": rows}
    emit(data, "\n".join(lines), as_json=as_json)


@command.command("rotate")
@click.option(
    "--admin-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The admin key's file.  [default: where init left it]",
)
@json_option
@click.pass_obj
def rotate(paths: Paths, admin_key: Path | None, as_json: bool) -> None:
    """Replace the coordinator's signing keys; the server and an open round go on meanwhile.

    The admin key and the present keys sign the new ones, and hospitals follow by themselves the
    next time that they ask for anything. If it is cut off, run it again.
    """
    from dataclasses import asdict

    from coordinator.succession import rotate as run

    done = run(load_coordinator(paths), load_admin(paths, admin_key))
    which = (
        "No new keys: a rotation that had been cut off is finished. To replace these, run it again."
        if done.only_finished
        else "These keys are new."
    )
    emit(
        asdict(done),
        f"Signing keys: {done.fingerprint}\nThey take the place of {done.former}.\n{which}\n"
        "Hospitals follow by themselves, and then refuse the old keys.\n"
        "Next: coordinator backup. With an older one you could not go on: it holds the old keys.",
        as_json=as_json,
    )


@command.command("rotate-wrapping")
@json_option
@click.pass_obj
def rotate_wrapping(paths: Paths, as_json: bool) -> None:
    """Replace the key that wraps the rounds' secrets; the server may run meanwhile.

    If it is cut off, run it again. Copies of the old key, such as the one beside your backups, open
    what was backed up before; keep a copy of the new one for those that follow.
    """
    from coordinator.rewrapping import rotate_wrapping as rotate

    rounds = rotate(load_coordinator(paths))
    wrapped = f"the secret of round {rounds[0]} is wrapped anew" if rounds else "no round needed it"
    emit(
        {"file": str(paths.wrapping_key), "rounds": rounds},
        f"A new wrapping key is at {paths.wrapping_key}; {wrapped}.\n"
        "Keep a copy where your backups are not; the old one opens only older backups.",
        as_json=as_json,
    )
