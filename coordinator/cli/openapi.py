"""``coordinator openapi``."""

from __future__ import annotations

import json

import click


@click.command("openapi")
def command() -> None:
    """Print the OpenAPI document of the HTTP interface, for tools and reviewers; needs no home."""
    from coordinator.api import openapi

    click.echo(json.dumps(openapi(), indent=2))
