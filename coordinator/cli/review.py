"""``coordinator review``: what was found about updates, and a person's word about them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli import load_coordinator
from coordinator.clock import utc
from coordinator.paths import Paths
from federation.terminal import emit, json_option

if TYPE_CHECKING:
    from coordinator.review import Reviewed
    from coordinator.store.reviews import Decided

_round_option = click.option(
    "--round", "number", type=click.IntRange(1), help="Which round.  [default: the newest]"
)
_reason_option = click.option(
    "--reason",
    required=True,
    help="Why; it goes into the audit log and, for all hospitals to read, into the round's record.",
)


@click.group("review")
def command() -> None:
    """See what was found about the hospitals' updates; admit one in quarantine, or exclude one.

    An update that looks unlike the others' is in quarantine: it is left out when the round closes,
    unless somebody admits it before. A hospital of a rare specialty can look so too.
    """


@command.command("list")
@_round_option
@json_option
@click.pass_obj
def list_(paths: Paths, number: int | None, as_json: bool) -> None:
    """List the updates of a round with what was found and decided."""
    from coordinator.review import listing

    found = listing(load_coordinator(paths), number)
    lines = [_line(one) for one in found] or ["No update was accepted in this round yet."]
    emit({"updates": [_record(one) for one in found]}, "\n".join(lines), as_json=as_json)


@command.command("show")
@click.argument("hospital")
@_round_option
@json_option
@click.pass_obj
def show(paths: Paths, hospital: str, number: int | None, as_json: bool) -> None:
    """Show the figures of HOSPITAL's update beside the others', and what they mean."""
    from coordinator.review import find

    found = find(load_coordinator(paths), hospital, number)
    emit(_record(found), _details(found), as_json=as_json)


@command.command("admit")
@click.argument("hospital")
@_reason_option
@json_option
@click.pass_obj
def admit(paths: Paths, hospital: str, reason: str, as_json: bool) -> None:
    """Use HOSPITAL's update of the open round although it looks unlike the others'."""
    _decide(paths, hospital, "admitted", reason, as_json=as_json)


@command.command("exclude")
@click.argument("hospital")
@_reason_option
@json_option
@click.pass_obj
def exclude(paths: Paths, hospital: str, reason: str, as_json: bool) -> None:
    """Leave HOSPITAL's update out of the open round, whatever was found about it."""
    _decide(paths, hospital, "excluded", reason, as_json=as_json)


def _decide(paths: Paths, hospital: str, decision: Decided, reason: str, *, as_json: bool) -> None:
    from coordinator.review import decide_about

    found = decide_about(load_coordinator(paths), hospital, decision, reason)
    text = f"The update of {hospital} in round {found.round} is {found.state}: {reason}"
    emit(_record(found), text, as_json=as_json)


def _record(one: Reviewed) -> dict[str, Any]:
    found = one.finding.model_dump(mode="json") if one.finding else None
    return {**asdict(one), "finding": found}


def _line(one: Reviewed) -> str:
    until = f" until {utc(one.until)}" if one.until is not None else ""
    odd = "; ".join(one.finding.reasons) if one.finding else ""
    why = one.decision_reason or odd
    return f"{one.hospital:<20} {one.state}{until}" + (f": {why}" if why else "")


def _details(one: Reviewed) -> str:
    lines = [_line(one), f"  upload {one.upload_id}, round {one.round}"]
    if one.finding is None:
        lines.append("  It is examined once there are as many updates as the quorum.")
        return "\n".join(lines)
    if figures := one.finding.figures:
        lines += [
            f"  size of its change          {figures.norm:.4g}{_times(figures.norm_ratio)}",
            f"  cosine with the others      {_number(figures.cosine)}",
            f"  usual among the others      {_number(figures.usual_cosine)}",
        ]
    lines += [f"  odd: {reason}" for reason in one.finding.reasons] or ["  nothing is odd"]
    lines.append(f"  held-out loss it reported   {_number(one.reported_loss, '.3f')}")
    lines.append(f"  loss validated here         {_number(one.finding.validated_loss, '.3f')}")
    lines.append(f"  its variance over folds     {_number(one.finding.validated_variance, '.2g')}")
    return "\n".join(lines)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f", {ratio:.2f} x the middle of the others"


def _number(value: float | None, form: str = "+.2f") -> str:
    return "not known" if value is None else format(value, form)
