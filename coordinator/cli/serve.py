"""``coordinator serve``."""

from __future__ import annotations

import click

from coordinator.paths import Paths
from federation.terminal import json_option


@click.command("serve")
@click.option("--host", help="Address to listen on, instead of coordinator.toml's.")
@click.option("--port", type=int, help="Port to listen on, instead of coordinator.toml's.")
@json_option
@click.pass_obj
def command(paths: Paths, host: str | None, port: int | None, as_json: bool) -> None:
    """Serve the hospitals over HTTPS until interrupted.

    Events go to standard error, one JSON object a line, with and without --json. A database of an
    older version is migrated first, and its copy kept: a restart after an upgrade needs nobody.
    """
    from coordinator.config import load_config
    from coordinator.context import open_coordinator
    from coordinator.events import to_stderr
    from coordinator.home import tls_files
    from coordinator.locks import exclusive
    from coordinator.server import bind, serve
    from coordinator.store.database import migrate_sqlite

    flags = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    config = load_config(paths.config, flags={"server": flags})
    with exclusive(paths.home):
        if done := migrate_sqlite(paths.database):
            to_stderr("migrated", before=done.before, after=done.after, copy=str(done.copy))
        coordinator = open_coordinator(paths, config, emit=to_stderr)
        tls = tls_files(paths, config)
        with bind(config.server.host, config.server.port) as listener:
            serve(coordinator, paths, config, listener, tls)
