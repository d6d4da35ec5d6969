"""``coordinator migrate``."""

from __future__ import annotations

import click

from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.command("migrate")
@json_option
@click.pass_obj
def command(paths: Paths, as_json: bool) -> None:
    """Bring the database to this version's schema; a copy of it is kept.

    `coordinator serve` does the same when it starts. The migration is one transaction: when it
    fails, the database is as it was. To go back to an older version of fedmed, stop the server
    and put the copy in the database's place; what came after the migration is then lost.
    """
    from coordinator.config import load_config
    from coordinator.locks import exclusive
    from coordinator.store.database import migrate_sqlite

    load_config(paths.config)
    with exclusive(paths.home):
        done = migrate_sqlite(paths.database)
    if done is None:
        emit({"migrated": False}, "The database is up to date.", as_json=as_json)
        return
    emit(
        {"migrated": True, "before": done.before, "after": done.after, "copy": str(done.copy)},
        f"The database went from revision {done.before} to {done.after}.\n"
        f"Its copy of before: {done.copy}",
        as_json=as_json,
    )
