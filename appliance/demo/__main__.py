"""``python -m appliance.demo``: a whole federation on this machine; ``make demo`` runs it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import get_args

import click
from rich.console import Console

from appliance.demo.board import Board
from appliance.demo.report import render
from appliance.demo.results import collect
from appliance.demo.settings import (
    ATTACKER,
    BASE_MODEL,
    HOSPITALS,
    Attack,
    DemoPaths,
    DemoSettings,
    program,
)
from appliance.demo.story import Story
from appliance.demo.tables import show
from appliance.locks import exclusive
from federation.files import write_atomically
from federation.terminal import run


@click.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-run"),
    show_default=True,
    help="Where everything of the demonstration lies.",
)
@click.option(
    "--rounds", type=click.IntRange(1, 50), default=DemoSettings().rounds, show_default=True
)
@click.option("--steps", type=click.IntRange(1), default=DemoSettings().steps, show_default=True)
@click.option(
    "--attack",
    type=click.Choice(get_args(Attack)),
    default="none",
    show_default=True,
    help=f"What {ATTACKER} does to its trained adapter before it is sealed.",
)
def demo(folder: Path, rounds: int, steps: int, attack: Attack) -> None:
    """Run a coordinator and four hospitals on real data, and measure what federating gained.

    With --attack one of the four sends something else than it trained, in every round.

    Interrupted and run again with the same numbers it continues; with others it starts clean.
    """
    started = time.monotonic()
    paths = DemoPaths(folder.absolute())
    settings = DemoSettings(rounds=rounds, steps=steps, attack=attack)
    console = Console()
    busy = "Another demonstration runs in this folder; waiting for it to end."
    with exclusive(paths.root / "demo.lock", lambda: console.print(busy)):
        story = Story(paths, settings, Board(console))
        story.play()
        results = collect(paths, settings, BASE_MODEL)
        write_atomically(paths.report, render(results).encode())
        show(results, console)
        story.finish()
    minutes, seconds = divmod(int(time.monotonic() - started), 60)
    home = paths.hospital(HOSPITALS[0])
    console.print(f"\nTook {minutes} min {seconds} s. Report: {paths.report}", soft_wrap=True)
    console.print(
        "The terminal interface on one of these hospitals:\n"
        f"  FEDMED_MODELS={paths.models} {program('appliance')} --home {home}\n"
        "To go on with rounds there, start the coordinator again and open one:\n"
        f"  {program('coordinator')} --home {paths.coordinator} serve\n"
        f"  {program('coordinator')} --home {paths.coordinator} round open",
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(run(demo))
