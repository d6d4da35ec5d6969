"""``appliance sync``."""

from __future__ import annotations

import click

from appliance.context import Context
from appliance.view import watch
from federation.terminal import emit, json_option


@click.command("sync")
@click.option("--round", "number", type=click.IntRange(1), help="Default: the newest finished.")
@click.option(
    "--evaluate/--no-evaluate", default=True, help="Measure it on local held-out data (default)."
)
@json_option
@click.pass_obj
def command(context: Context, number: int | None, evaluate: bool, as_json: bool) -> None:
    """Fetch a published global adapter, verify it, measure it on local held-out data, and decide.

    By [adopt] in appliance.toml the hospital adopts it, keeps what it had, or keeps a mixture.
    """
    from appliance.rounds.sync import sync

    with watch(as_json=as_json) as sink:
        outcome = sync(context, sink, number=number, evaluate=evaluate)
    measured = "" if outcome.loss is None else f", held-out loss here {outcome.loss:.3f}"
    data = {
        "round": outcome.round,
        "adapter_sha256": outcome.adapter.card.sha256,
        "folder": str(outcome.adapter.folder),
        "loss": outcome.loss,
        "adoption": outcome.adoption.model_dump() if outcome.adoption else None,
    }
    text = f"Global adapter of round {outcome.round}{measured}: {outcome.adapter.folder}"
    if outcome.adoption:
        text += f"\nIn use from now on: {outcome.adoption.choice} ({outcome.adoption.reason})"
    emit(data, text, as_json=as_json)
