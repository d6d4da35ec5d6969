"""The ``appliance`` command: each subcommand is one module here, loaded when it is used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from appliance.context import Context
from federation.terminal import LazyGroup, run

COMMANDS = {
    "enrol": "Join a federation with an invite file.",
    "keys": "Show, rotate and protect this hospital's signing keys.",
    "doctor": "Say what this machine can do and what is wrong with the set-up.",
    "data": "Import training data and look at what is there.",
    "models": "List and install base models.",
    "train": "Take part in a round, or train on local data only.",
    "sync": "Fetch the newest global adapter, verify and measure it.",
    "status": "Show the federation, the round and what this hospital has done.",
    "audit": "Verify the coordinator's log of all its acts.",
    "ask": "Ask one question behind the guardrails.",
    "chat": "Hold a conversation behind the guardrails.",
    "serve": "Answer other programs by OpenAI's protocol, behind the guardrails.",
    "adapter": "List adapters; export them for PEFT or mlx-lm, import theirs.",
    "safety": "Measure the guardrails.",
    "paths": "Print where everything lies on disk.",
    "config": "Show the configuration and where each value comes from.",
}


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS, invoke_without_command=True)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of this appliance's keys, data and adapters (also FEDMED_HOME).",
)
@click.version_option(package_name="fedmed", prog_name="appliance")
@click.pass_context
def cli(ctx: click.Context, home: Path | None) -> None:
    """Train one medical assistant together with other hospitals; no patient record leaves.

    Without a command the terminal interface starts.
    """
    ctx.obj = Context.open(home)
    if ctx.invoked_subcommand is None:
        if not sys.stdout.isatty():
            click.echo(ctx.get_help())
            ctx.exit(2)
        os.environ["FEDMED_HOME"] = str(ctx.obj.paths.home)
        os.execv(sys.executable, [sys.executable, "-m", "tui"])


def main() -> None:
    """Entry point of the ``appliance`` console script."""
    sys.exit(run(cli))
