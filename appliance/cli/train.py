"""``appliance train``."""

from __future__ import annotations

import dataclasses
import signal
import time
from typing import TYPE_CHECKING, Any

import click

from appliance.cli.recipe_options import recipe_from, recipe_options
from appliance.context import Context
from appliance.engine import Bits, MachineChoices
from appliance.local import LocalSettings, train_local
from appliance.rounds.overrides import Wishes
from appliance.view import watch
from federation.errors import InputError
from federation.terminal import emit, json_option

if TYPE_CHECKING:
    from appliance.rounds.participation import RoundOutcome


@click.command("train")
@click.option("--round", "number", type=click.IntRange(1), help="Take part in this round.")
@click.option("--follow", is_flag=True, help="Take part in every round as it opens, until stopped.")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="With --follow: end after so many delivered by this run, once the last is over.",
)
@click.option("--local", "local", is_flag=True, help="Train on this hospital's data alone instead.")
@click.option("--dry-run", is_flag=True, help="Check data, model, memory, policy and round only.")
@click.option(
    "--target-modules",
    help=f"With --local: adapted layers [{','.join(LocalSettings.target_modules)}].",
)
@click.option(
    "--lora-rank",
    "--rank",
    "rank",
    type=click.IntRange(1, 1024),
    help=f"Rank of the adapter [{LocalSettings.rank}]; in a round of mixed ranks, a lower one.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, min_open=True),
    help=f"With --local: alpha [{LocalSettings.alpha:g}].",
)
@click.option("--use-4bit", "bits", flag_value=4, type=int, help="Hold the base in 4 bits.")
@click.option("--use-8bit", "bits", flag_value=8, type=int, help="Hold the base in 8 bits.")
@recipe_options
@json_option
@click.pass_obj
def command(
    context: Context,
    /,
    number: int | None,
    follow: bool,
    rounds: int | None,
    local: bool,
    dry_run: bool,
    target_modules: str | None,
    rank: int | None,
    alpha: float | None,
    bits: Bits | None,
    as_json: bool,
    **recipe: Any,  # noqa: ANN401  one option a field of the recipe
) -> None:
    """Take part in a round of the federation, or train on local data only.

    In a round the recipe comes from the coordinator and the hospital's policy has the last word.
    A hospital decides alone how its base is held (--use-4bit, --use-8bit) and how many examples
    go through the model at once (--batch-size: batches are cut, the gradients stay the same). It
    may change --epochs and --lr where the round lists them, --lora-rank where ranks may differ;
    all else belongs to --local, which takes every option.

    The same command after a crash continues: a finished training is never repeated. With --follow
    it waits for rounds and for a coordinator that is away; SIGINT and SIGTERM end it.
    """
    if [number is not None, follow, local].count(True) != 1:
        raise InputError("Say one of --round N, --follow and --local.")
    if rounds and not follow:
        raise InputError("--rounds belongs to --follow.")
    modules = target_modules.split(",") if target_modules else None
    shape = {"target_modules": modules, "rank": rank, "alpha": alpha}
    if number is None and dry_run:
        raise InputError("--dry-run checks a round: give --round N.")
    if local:
        _local(context, shape, recipe, bits, as_json)
        return
    wishes = _wishes(shape, recipe, bits)
    if number is None:
        _follow(context, rounds, wishes, as_json)
    elif dry_run:
        _dry_run(context, number, wishes, as_json)
    else:
        _round(context, number, wishes, as_json)


def _wishes(shape: dict[str, Any], recipe: dict[str, Any], bits: Bits | None) -> Wishes:
    """What a hospital asks for in a round. Raises InputError for what no round leaves to it."""
    own = ("epochs", "learning_rate", "rank", "batch_size")
    given = {name: value for name, value in {**shape, **recipe}.items() if value is not None}
    if foreign := [name for name in given if name not in own]:
        raise InputError(
            f"In a round the recipe is the coordinator's; leave out "
            f"--{foreign[0].replace('_', '-')}.",
            hint="A hospital may ask for --batch-size, --use-4bit, --use-8bit, and where the round "
            "allows it --epochs, --lr and --lora-rank.",
        )
    rows = given.pop("batch_size", None)
    if rows is not None and rows < 1:
        raise InputError(f"--batch-size {rows}: at least one example goes through the model.")
    choices = MachineChoices(bits, rows)
    return Wishes(choices, **given)


def _local(
    context: Context,
    shape: dict[str, Any],
    recipe: dict[str, Any],
    bits: Bits | None,
    as_json: bool,
) -> None:
    given = {name: value for name, value in shape.items() if value is not None}
    settings = LocalSettings(**given, recipe=recipe_from(recipe), choices=MachineChoices(bits))
    with watch(as_json=as_json) as sink:
        done = train_local(context, settings, sink)
    text = (
        f"Local adapter: held-out loss {done.loss_before:.3f} -> {done.loss_after:.3f} "
        f"in {done.steps} steps, {done.seconds:.0f} s."
    )
    emit(done.model_dump(mode="json"), text, as_json=as_json)


def _round(context: Context, number: int, wishes: Wishes, as_json: bool) -> None:
    from appliance.rounds.participation import take_part

    with watch(as_json=as_json) as sink:
        outcome = take_part(context, number, sink, wishes)
    _report(outcome, as_json)


def _follow(context: Context, rounds: int | None, wishes: Wishes, as_json: bool) -> None:
    from appliance.rounds.following import follow

    delivered: list[int] = []

    def report(outcome: RoundOutcome) -> None:
        delivered.append(outcome.round)
        _report(outcome, as_json)

    # A service manager stops with SIGTERM: as harmless here as the person's own Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended = "complete"
    try:
        with watch(as_json=as_json) as sink:
            follow(context, sink, report, rounds=rounds, wishes=wishes)
    except KeyboardInterrupt:
        ended = "stopped"
    text = f"{ended.capitalize()}: {len(delivered)} rounds delivered."
    emit({"ended": ended, "rounds": delivered}, text, as_json=as_json)


def _report(outcome: RoundOutcome, as_json: bool) -> None:
    number, done = outcome.round, outcome.training
    data = {
        "round": number,
        "receipt": outcome.receipt.model_dump(),
        "training": done.model_dump(mode="json"),
        "folder": str(outcome.folder),
        "bytes_sent": outcome.bytes_sent,
        "bytes_received": outcome.bytes_received,
    }
    text = (
        f"Round {number} delivered: held-out loss here {done.loss_before:.3f} -> "
        f"{done.loss_after:.3f} in {done.steps} steps, {done.seconds:.0f} s; sent "
        f"{outcome.bytes_sent / 1e6:.1f} MB ({outcome.bytes_sent / done.base.n_bytes:.2%} of the "
        f"base model).\nEverything of it: {outcome.folder}"
    )
    emit(data, text, as_json=as_json)


def _dry_run(context: Context, number: int, wishes: Wishes, as_json: bool) -> None:
    from appliance.rounds.dry_run import dry_run

    plan = dry_run(context, number, wishes)
    text = (
        f"Round {plan.round} is open, deadline {time.ctime(plan.deadline)}\n"
        f"Base model  {plan.base}\n"
        f"Engine      {plan.backend}: {plan.reason}\n"
        f"Data        {plan.n_train} training and {plan.n_held_out} held-out examples\n"
        f"Training    {plan.steps} steps, rank {plan.rank}, factors {plan.factors}, "
        f"aggregated by {plan.aggregator}\n"
        f"Memory      {plan.machine.needed} of {plan.memory_free / 1e9:.1f} GB free\n"
        f"Plan        {plan.machine.way}\n"
        f"Leaves here {', '.join(plan.leaves)}\n"
        "The policy allows this round. Nothing was trained."
    )
    emit(dataclasses.asdict(plan), text, as_json=as_json)
