"""``coordinator status``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from coordinator.cli import load_coordinator
from coordinator.clock import utc
from coordinator.paths import Paths
from federation.terminal import emit, json_option

if TYPE_CHECKING:
    from rich.table import Table

    from coordinator.context import Coordinator
    from coordinator.status import Status

_LOOK_SECONDS = 1.0


@click.command("status")
@click.option(
    "--watch", is_flag=True, help="Go on until interrupted; with --json one line a change."
)
@json_option
@click.pass_obj
def command(paths: Paths, watch: bool, as_json: bool) -> None:
    """Show the newest round, what each hospital does, what comes next, and the best adapter.

    Works whether the server runs or not.
    """
    from coordinator.status import federation_status

    coordinator = load_coordinator(paths)
    if not watch:
        status = federation_status(coordinator)
        emit(asdict(status), _text(status), as_json=as_json)
    elif as_json:
        for status in changes(_looks(coordinator)):
            print(json.dumps(asdict(status), ensure_ascii=False), flush=True)
    else:
        _live(coordinator)


def _looks(coordinator: Coordinator) -> Iterator[Status]:
    from coordinator.status import federation_status

    while True:
        yield federation_status(coordinator)
        time.sleep(_LOOK_SECONDS)


def changes(looks: Iterator[Status]) -> Iterator[Status]:
    """The first status, and each that differs from the one before by more than passing time."""
    before: Status | None = None
    for status in looks:
        timeless = _timeless(status)
        if timeless != before:
            yield status
        before = timeless


def _timeless(status: Status) -> Status:
    return replace(
        status,
        hospitals=tuple(replace(h, seconds_ago=None) for h in status.hospitals),
        ahead=replace(status.ahead, text="") if status.ahead else None,
    )


def _live(coordinator: Coordinator) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), auto_refresh=False) as live:
        for status in _looks(coordinator):
            live.update(table(status), refresh=True)


def table(status: Status) -> Table:
    """The status as rich shows it."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(_head(status)), title_justify="left", expand=True)
    if status.ahead:
        shown.caption = Text(_next(status))
        shown.caption_justify = "left"
    for column in ("hospital", "state", "doing", "heard of"):
        shown.add_column(column)
    for h in status.hospitals:
        doing = h.why or h.odd or h.phase or ""
        if doing == h.phase and h.of:
            doing = f"{h.phase} {h.step} of {h.of}"
        ago = "" if h.seconds_ago is None else f"{h.ago} ago"
        shown.add_row(*(Text(part) for part in (h.hospital, h.state, doing, ago)))
    return shown


def _head(status: Status) -> str:
    head = f"Federation {status.federation}: "
    head += f"round {status.round} is {status.state}" if status.round else "no round yet"
    if status.reason:
        head += f" ({status.reason})"
    if status.deadline is not None:
        head += f" until {utc(status.deadline)}, quorum {status.quorum}"
    return head


def _next(status: Status) -> str:
    return f"next: {status.ahead.text}" if status.ahead else ""


def _text(status: Status) -> str:
    lines = [_head(status)]
    lines += [f"  {h.hospital:16} {h.text()}" for h in status.hospitals] or ["  no hospitals yet"]
    if status.ahead:
        lines.append(f"  {_next(status)}")
    for loss in status.losses:
        best = "  <- best" if loss.round == status.best_round else ""
        lines.append(
            f"  round {loss.round}: held-out loss {loss.loss:.3f} "
            f"at {len(loss.by_hospital)} hospitals{best}"
        )
    return "\n".join(lines)
