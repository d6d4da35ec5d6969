"""``appliance serve``."""

from __future__ import annotations

import click

from appliance.cli.answers import show_loading
from appliance.context import Context
from federation.terminal import emit, json_option


@click.command("serve")
@click.option("--host", help="Address to listen on, instead of appliance.toml's (127.0.0.1).")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on, instead of appliance.toml's (8080); 0 takes a free one.",
)
@json_option
@click.pass_obj
def command(context: Context, host: str | None, port: int | None, as_json: bool) -> None:
    """Answer other programs of this machine, by OpenAI's chat completions protocol.

    Point a program's OpenAI base URL at the address shown; its model names are base, local,
    personal, global, round:N, adopted and those of imported adapters. The guardrails are always on.
    Nothing of questions and answers is written down.
    """
    from appliance.serving.server import serve

    flags = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = context.config.serve.model_copy(update=flags)

    def ready(at: str, number: int) -> None:
        name = f"[{at}]" if ":" in at else at
        url = f"http://{name}:{number}/v1"
        emit({"event": "serving", "url": url}, f"Serving {url} until interrupted.", as_json=as_json)

    serve(context, settings, show_loading, ready)
