"""What ``ask`` and ``chat`` share: the adapter option, sampling options, and how answers look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from appliance.events import Event, Phase

if TYPE_CHECKING:
    from appliance.safety import Finished, GuardEvent

_F = Callable[..., Any]

adapter_option = click.option(
    "--adapter",
    default="adopted",
    show_default=True,
    help="adopted (what `appliance sync` decided; until then base), base, local, personal, global, "
    "round:N (the global adapter of a round) or an imported one.",
)


def sampling_options(function: _F) -> _F:
    """Give the command ``options``; the defaults are greedy, so that answers can be repeated."""

    @wraps(function)
    def command(
        *args: Any,  # noqa: ANN401  whatever else the command takes
        max_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        **others: Any,  # noqa: ANN401
    ) -> None:
        from appliance.inference import DEFAULT_OPTIONS

        options = replace(
            DEFAULT_OPTIONS, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed
        )
        function(*args, options=options, **others)

    result: _F = command
    for option in (
        click.option("--seed", type=int, default=0, show_default=True, help="For sampling."),
        click.option(
            "--top-p", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Nucleus."
        ),
        click.option(
            "--temperature",
            type=click.FloatRange(0),
            default=0.0,
            show_default=True,
            help="0 is greedy: the same answer each time.",
        ),
        click.option(
            "--max-tokens",
            type=click.IntRange(1),
            default=256,
            show_default=True,
            help="Longest answer.",
        ),
    ):
        result = option(result)
    return result


def show_loading(event: Event) -> None:
    """Say on standard error that the base model is being loaded."""
    if isinstance(event, Phase):
        click.echo(f"{event.name} {event.detail} ...", err=True)


def show(events: Iterator[GuardEvent], *, as_json: bool) -> Finished:
    """Print an answer as it is released; returns its last event.

    As JSON: one object for each event, its class under ``event``.
    """
    from appliance.safety import Finished, Notice, Refused

    last: GuardEvent | None = None
    for last in events:
        if as_json:
            print(json.dumps({"event": type(last).__name__, **asdict(last)}), flush=True)
        elif isinstance(last, Notice):
            click.secho(f"\n! {last.text}\n", fg="yellow")
        elif isinstance(last, Refused):
            click.secho(f"\n{last.text}", fg="yellow")
        elif isinstance(last, Finished):
            click.secho(f"\n\n{last.text}", dim=True)
        else:
            click.echo(last.text, nl=False)
    assert isinstance(last, Finished)
    return last
