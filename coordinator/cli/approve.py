"""``coordinator approve``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from coordinator.cli import load_admin, load_coordinator
from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.command("approve")
@click.argument("hospital")
@click.option(
    "--admin-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The admin key's file.  [default: where init left it]",
)
@click.option("--fingerprint", "expected", help="What the hospital read out, checked for you.")
@json_option
@click.pass_obj
def command(
    paths: Paths, hospital: str, admin_key: Path | None, expected: str | None, as_json: bool
) -> None:
    """Sign HOSPITAL, which has enrolled or asked for new keys, into the roster.

    Compare the fingerprint with what the hospital reads out by phone; without a terminal, or with
    --json, give that as --fingerprint. Of new keys both fingerprints are shown: those that the
    hospital has, and those that it will have once you confirm.
    """
    from coordinator.enrolment import approve, candidate
    from coordinator.rotation import approve_rotation, pending
    from federation.errors import InputError
    from federation.signing import fingerprint

    coordinator = load_coordinator(paths)
    rotation = pending(coordinator, hospital)
    old: str | None = None
    if rotation:
        member = coordinator.roster().member(hospital)
        assert member is not None
        old = fingerprint(member.identity)
        found = fingerprint(rotation.identity)
        asked = f"{hospital} asks to replace its keys {old} by {found}."
    else:
        found = fingerprint(candidate(coordinator, hospital).identity)
        asked = f"{hospital} enrolled with the fingerprint {found}."
    if expected is None:
        if as_json or not sys.stdin.isatty():
            raise InputError(
                f"Nobody can confirm here that {hospital} is who has asked.",
                hint="Give --fingerprint with what the hospital read out, or ask at a terminal.",
            )
        click.echo(asked)
        same = found if rotation else "the same"
        click.confirm(f"Did the hospital read out {same}?", abort=True)
    # What was shown is what is signed, also if the hospital asks anew meanwhile.
    admin = load_admin(paths, admin_key)
    sign = approve_rotation if rotation else approve
    roster = sign(coordinator, admin, hospital, expected=expected or found)
    emit(
        {
            "hospital": hospital,
            "fingerprint": found,
            "replaces": old,
            "roster_version": roster.version,
        },
        f"{hospital} ({found}) is on the roster, version {roster.version}, "
        f"with {len(roster.members)} hospitals."
        + (f"\nIts old keys {old} now serve only to seal for a round that is open." if old else ""),
        as_json=as_json,
    )
