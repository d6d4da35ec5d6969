"""``appliance status``."""

from __future__ import annotations

import dataclasses

import click

from appliance.context import Context
from federation.terminal import emit, json_option


@click.command("status")
@json_option
@click.pass_obj
def command(context: Context, as_json: bool) -> None:
    """Show the federation, the newest round and what this hospital has done.

    Exits with 7 when the coordinator does not answer, with 3 when it does not know this hospital.
    """
    from appliance.state import read_status

    status = read_status(context)
    lines = [
        f"Hospital     {status.hospital} in {status.federation} ({status.fingerprint})",
        f"Coordinator  {status.url} {status.coordinator}",
    ]
    changed = f", replaced {status.key_changes} times since enrolling" if status.key_changes else ""
    lines.append(f"Its keys     {status.coordinator_keys}{changed}")
    if status.round is not None:
        mine = "delivered by this hospital" if status.delivered else "not delivered from here"
        what = f"{status.round}: {status.round_state}, {mine}" if status.round else "none yet"
        lines.append(f"Round        {what}")
    if status.quarantine:
        lines.append(f"In quarantine at the coordinator: {status.quarantine}")
    for done in status.rounds:
        losses = (
            f"  held-out loss {done.loss_before:.3f} -> {done.loss_after:.3f}"
            if done.loss_before is not None and done.loss_after is not None
            else ""
        )
        lines.append(f"  round {done.round}: {done.stage}{losses}")
        if done.why:
            lines.append(f"    {done.why}")
    fetched = ", ".join(map(str, status.global_rounds)) or "none"
    lines.append(f"Global adapters here: {fetched}")
    if status.adoption:
        lines.append(f"In use here  {status.adoption.choice}: {status.adoption.reason}")
    lines.append(
        f"Traffic      {status.bytes_sent / 1e6:.2f} MB sent, "
        f"{status.bytes_received / 1e6:.2f} MB received"
    )
    adoption = status.adoption.model_dump() if status.adoption else None
    data = {**dataclasses.asdict(status), "adoption": adoption}
    emit(data, "\n".join(lines), as_json=as_json)
    click.get_current_context().exit(status.exit_code)
