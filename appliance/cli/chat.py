"""``appliance chat``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from appliance.cli.answers import adapter_option, sampling_options, show, show_loading
from appliance.context import Context
from federation.errors import FedMedError
from federation.terminal import json_option, report

_HELP = (
    "/adapter base|local|global|round:N|NAME switches, /new forgets the conversation, /quit ends."
)

if TYPE_CHECKING:
    from backends.base import ChatMessage, GenerateOptions


@click.command("chat")
@adapter_option
@sampling_options
@json_option
@click.pass_obj
def command(
    context: Context,
    adapter: str,
    options: GenerateOptions,
    as_json: bool,
) -> None:
    """Hold a conversation behind the guardrails; the model is loaded once.

    Without a terminal each line of standard input is one question. Ctrl-C stops an answer.
    """
    from appliance.inference import Assistant

    assistant = Assistant(context, show_loading)
    if adapter != "base":
        assistant.use(adapter)
    conversation: list[ChatMessage] = []
    interactive = sys.stdin.isatty() and not as_json
    if interactive:
        click.echo(_HELP)
    while (line := _next_line(assistant.choice if interactive else None)) is not None:
        if line.startswith("/"):
            if line == "/quit":
                return
            if line == "/new":
                conversation.clear()
            elif line.startswith("/adapter "):
                _switch(assistant.use, line.removeprefix("/adapter ").strip(), as_json)
            else:
                click.echo(_HELP, err=True)
        elif line:
            question: ChatMessage = {"role": "user", "content": line}
            try:
                done = show(assistant.answer([*conversation, question], options), as_json=as_json)
            except KeyboardInterrupt:
                click.echo("\n(stopped)", err=True)
                continue
            except FedMedError as error:
                if not interactive:
                    raise
                report(error, as_json=False)
                continue
            conversation += [question, {"role": "assistant", "content": done.answer}]
            click.echo(err=True)


def _next_line(prompt: str | None) -> str | None:
    """The next line of input without its white space; None at its end."""
    if prompt is not None:
        click.secho(f"\n[{prompt}] > ", bold=True, nl=False)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _switch(use: Callable[[str], None], choice: str, as_json: bool) -> None:
    try:
        use(choice)
    except FedMedError as error:
        report(error, as_json=as_json)
    else:
        click.echo(f"Answers now come from: {choice}", err=True)
