"""``appliance enrol``."""

from __future__ import annotations

from pathlib import Path

import click

from appliance.context import Context
from federation.terminal import emit, json_option


@click.command("enrol")
@click.argument("invite", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@click.pass_obj
def command(context: Context, invite: Path, as_json: bool) -> None:
    """Join a federation with the INVITE file from its coordinator.

    Signing keys are made here and never leave. Read the fingerprint out to the coordinator by
    phone: when both sides see the same one, the coordinator approves this hospital.
    """
    from appliance.joining import enrol

    answer = enrol(invite, context.paths, context.config.network)
    text = (
        f"Enrolled as {answer.hospital}. Fingerprint: {answer.fingerprint}\n"
        "Read it out to the coordinator, who now runs `coordinator approve "
        f"{answer.hospital}`.\nThis hospital's policy is {context.paths.policy}."
    )
    emit(answer.model_dump(), text, as_json=as_json)
