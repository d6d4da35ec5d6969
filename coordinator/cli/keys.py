"""``coordinator keys``."""

from __future__ import annotations

import click

from coordinator.cli import load_coordinator
from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.group("keys")
def command() -> None:
    """Replace the coordinator's keys."""


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
