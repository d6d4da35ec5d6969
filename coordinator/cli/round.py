"""``coordinator round``: open, extend and close rounds; plan several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from coordinator.cli import load_coordinator
from coordinator.clock import utc
from coordinator.paths import Paths
from federation.terminal import emit, json_option

if TYPE_CHECKING:
    from coordinator.context import Coordinator
    from coordinator.store.round_row import RoundRow
    from federation.messages import RoundDescriptor


class _RoundOptions(click.Command):
    """A command with one option for each field of ``RoundSection``: declared there, only there."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from coordinator.config import RoundSection

        options: list[click.Parameter] = [
            click.Option(
                [f"--{name.replace('_', '-')}", name],
                metavar=name.rpartition("_")[2].upper(),
                help=f"{field.description}  [default: {_shown(field.default)}]",
            )
            for name, field in RoundSection.model_fields.items()
        ]
        return [*self.params, *options, self.get_help_option(ctx)]  # type: ignore[list-item]


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default)
    return "unset" if default is None else str(default)


@click.group("round")
def command() -> None:
    """Open, extend or close rounds; see and cancel a plan of several."""


@command.command("open", cls=_RoundOptions)
@click.option(
    "--base",
    type=click.Path(path_type=Path),
    help="Base model: its folder, or its card.  [default: that of the previous round]",
)
@click.option("--fresh", is_flag=True, help="Start from a new adapter, not the previous one.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="How many are to be published; the server opens each when the one before is over.",
)
@click.option(
    "--max-aborts",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="With --rounds: end after so many aborted in a row; fewer are repeated.",
)
@json_option
@click.pass_obj
def open_(
    paths: Paths,
    /,
    base: Path | None,
    fresh: bool,
    rounds: int,
    max_aborts: int,
    as_json: bool,
    **options: str | None,
) -> None:
    """Open the next round; its descriptor is signed and published.

    With --rounds the server goes on alone: `coordinator round plan` shows how far it is.

    Every option can also stand in [round] of coordinator.toml, or in the environment as
    COORDINATOR_ROUND_<OPTION>. What shapes the adapter (target modules, rank, alpha) is taken
    from the previous round where nothing says otherwise.
    """
    from coordinator.config import load_config
    from coordinator.context import open_coordinator
    from coordinator.planning import open_rounds

    flags = {name: value for name, value in options.items() if value is not None}
    config = load_config(paths.config, flags={"round": flags})
    coordinator = open_coordinator(paths, config)
    row = open_rounds(
        coordinator,
        config.round,
        rounds=rounds,
        max_aborts=max_aborts,
        base=base,
        fresh=fresh,
    )
    descriptor = row.descriptor
    schema = descriptor.adapter_schema
    planned = f"\n{rounds} rounds are planned: `coordinator round plan`." if rounds > 1 else ""
    warning = veto(descriptor, len(coordinator.roster().members))
    emit(
        {
            "round": row.number,
            "state": row.state.value,
            "base": descriptor.base.name,
            "aggregator": descriptor.aggregator,
            "factors": descriptor.factors,
            "quorum": descriptor.quorum,
            "deadline": descriptor.deadline,
            "rounds": rounds,
            "descriptor_sha256": row.document.body_sha256,
            "parent_adapter_sha256": descriptor.parent_adapter_sha256,
            "warning": warning or None,
        },
        f"Round {row.number} is open until {utc(row.deadline)}: {descriptor.base.name}, "
        f"rank {schema.rank} on {len(schema.modules)} layers, {descriptor.aggregator} "
        f"(factors {descriptor.factors}), quorum {descriptor.quorum}.{planned}"
        + (f"\n{warning}" if warning else ""),
        as_json=as_json,
    )


def veto(descriptor: RoundDescriptor, n_members: int) -> str:
    """What one update that looks odd can do to a round that needs all of them."""
    # With fewer than three nothing can look odd.
    if descriptor.anomalies == "note" or not 3 <= n_members == descriptor.quorum:
        return ""
    return (
        f"All {n_members} hospitals are needed: one update that looks odd aborts the round unless "
        f"somebody admits it (`coordinator review`). With --quorum {n_members - 1} it would not."
    )


@command.command("close")
@click.option("--abort", is_flag=True, help="End it without a new adapter.")
@json_option
@click.pass_obj
def close(paths: Paths, abort: bool, as_json: bool) -> None:
    """Close the open round before its deadline, aggregate and publish; quorum must be met."""
    from coordinator.closing import advance
    from coordinator.rounds import Request, State
    from federation.errors import RoundError

    coordinator = load_coordinator(paths)
    newest = _unfinished(coordinator)
    row = advance(coordinator, newest.number, Request.ABORT if abort else Request.CLOSE)
    if row.state is State.OPEN:
        uploads = coordinator.store.uploads.of_round(row.number)
        delivered = sum(upload.state == "accepted" for upload in uploads)
        raise RoundError(
            f"Round {row.number} has {delivered} of {row.descriptor.quorum} needed updates.",
            hint="Wait for more, or give it up with --abort.",
        )
    _report(row, as_json=as_json)


@command.command("extend")
@click.option(
    "--minutes", type=click.IntRange(1, 525_600), required=True, help="Added to the deadline."
)
@json_option
@click.pass_obj
def extend(paths: Paths, minutes: int, as_json: bool) -> None:
    """Give the open round a later deadline; the hospitals learn it, signed, by themselves."""
    from coordinator.extending import extend_by_hand

    coordinator = load_coordinator(paths)
    row = extend_by_hand(coordinator, _unfinished(coordinator).number, minutes)
    emit(
        {"round": row.number, "deadline": row.deadline},
        f"Round {row.number} is open until {utc(row.deadline)}.",
        as_json=as_json,
    )


@command.command("plan")
@json_option
@click.pass_obj
def plan(paths: Paths, as_json: bool) -> None:
    """Show the newest plan of several rounds and how far it is."""
    from coordinator.planning import current, end_of

    found = current(load_coordinator(paths))
    if found is None:
        emit(
            {"plan": None},
            "No plan was made: `coordinator round open --rounds N`.",
            as_json=as_json,
        )
        return
    made, now = found
    ended = end_of(made, now)
    emit(
        {
            "plan": {
                "first": made.first,
                "rounds": made.rounds,
                "published": now.published,
                "aborted_in_a_row": now.aborted,
                "max_aborts": made.max_aborts,
                "ended": ended,
                "settings": made.settings.model_dump(mode="json", exclude_unset=True),
            }
        },
        f"{now.published} of {made.rounds} rounds are published, from round {made.first} on; "
        + (f"ended: {ended}." if ended else f"ends after {made.max_aborts} aborted in a row."),
        as_json=as_json,
    )


@command.command("cancel")
@json_option
@click.pass_obj
def cancel(paths: Paths, as_json: bool) -> None:
    """End the plan: no further round is opened. One that is open goes on."""
    from coordinator.planning import cancel as cancel_plan

    cancelled = cancel_plan(load_coordinator(paths))
    emit(
        {"first": cancelled.first, "rounds": cancelled.rounds},
        "The plan is cancelled; a round that is open goes on: `coordinator round close` ends it.",
        as_json=as_json,
    )


def _unfinished(coordinator: Coordinator) -> RoundRow:
    from coordinator.rounds import FINAL
    from federation.errors import RoundError

    newest = coordinator.store.rounds.newest()
    if newest is None or newest.state in FINAL:
        raise RoundError("No round is open.", hint="`coordinator round open` opens one.")
    return newest


def _report(row: RoundRow, *, as_json: bool) -> None:
    emit(
        {
            "round": row.number,
            "state": row.state.value,
            "reason": row.reason,
            "adapter_sha256": row.adapter_sha256,
        },
        f"Round {row.number} is {row.state.value}: {row.reason}."
        + (f"\nAdapter {row.adapter_sha256}" if row.adapter_sha256 else ""),
        as_json=as_json,
    )
