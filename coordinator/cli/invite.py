"""``coordinator invite``."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.clock import utc
from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.command("invite")
@click.argument("hospital")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.  [default: HOSPITAL.invite.json]",
)
@click.option(
    "--valid-hours",
    type=click.IntRange(1, 24 * 365),
    default=24,
    show_default=True,
    help="How long the hospital may use it.",
)
@json_option
@click.pass_obj
def command(paths: Paths, hospital: str, out: Path | None, valid_hours: int, as_json: bool) -> None:
    """Write an invite for HOSPITAL: a secret, for one use, to be handed over in confidence."""
    from coordinator.config import load_config
    from coordinator.context import open_coordinator
    from coordinator.enrolment import create_invite
    from coordinator.home import ca_certificate
    from federation.files import write_atomically

    config = load_config(paths.config)
    invite = create_invite(
        open_coordinator(paths, config),
        hospital,
        url=config.server.public_url,
        ca_certificate=ca_certificate(paths, config),
        hours=valid_hours,
    )
    file = (out or Path(f"{hospital}.invite.json")).absolute()
    write_atomically(file, invite.to_json(), mode=0o600)
    emit(
        {"hospital": hospital, "file": str(file), "expires": invite.expires},
        f"Invite for {hospital}: {file}, valid until {utc(invite.expires)}, for one use.\n"
        "Hand it over in confidence. There: appliance enrol "
        f"{file.name}\nThen here: coordinator approve {hospital}",
        as_json=as_json,
    )
