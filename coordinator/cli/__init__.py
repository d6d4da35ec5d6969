"""The ``coordinator`` command: each subcommand is one module here, loaded when it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coordinator.paths import Paths, default_home
from federation.terminal import LazyGroup, run

if TYPE_CHECKING:
    from coordinator.context import Coordinator
    from federation.signing import Identity

COMMANDS = {
    "init": "Make a coordinator: keys, certificate, empty roster.",
    "serve": "Serve the hospitals.",
    "invite": "Write an invite file for one hospital.",
    "approve": "Sign an enrolled hospital into the roster.",
    "revoke": "Sign a hospital out of the roster, effective at once.",
    "keys": "Show and replace the coordinator's keys.",
    "round": "Open, extend or close a round; plan several.",
    "review": "Look at unusual updates; admit or exclude them.",
    "aggregators": "List the ways to combine updates.",
    "status": "Show the round, the hospitals and the best adapter.",
    "backup": "Copy this coordinator while it serves.",
    "restore": "Make a coordinator from a backup.",
    "migrate": "Bring the database to this version's schema.",
    "audit": "Export or verify the audit log.",
    "openapi": "Print the OpenAPI document of the HTTP interface.",
    "paths": "Print where everything lies on disk.",
}


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of this coordinator's keys, database and adapters (also COORDINATOR_HOME).",
)
@click.version_option(package_name="fedmed", prog_name="coordinator")
@click.pass_context
def cli(ctx: click.Context, home: Path | None) -> None:
    """Run a federation: enrol hospitals, open rounds, receive and aggregate their updates."""
    ctx.obj = Paths((home or default_home()).expanduser().absolute())


def load_coordinator(
    paths: Paths, flags: Mapping[str, Mapping[str, object]] | None = None
) -> Coordinator:
    """The coordinator of a command that prints its own result."""
    from coordinator.config import load_config
    from coordinator.context import open_coordinator

    return open_coordinator(paths, load_config(paths.config, flags=flags))


def load_admin(paths: Paths, admin_key: Path | None) -> Identity:
    """The admin's signing keys. Raises IdentityError."""
    from federation.signing import Identity

    variable = "FEDMED_ADMIN_PASSPHRASE"
    return Identity.load(admin_key or paths.admin_key, os.environ.get(variable), variable=variable)


def main() -> None:
    """Entry point of the ``coordinator`` console script."""
    sys.exit(run(cli))
