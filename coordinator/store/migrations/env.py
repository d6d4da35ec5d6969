"""What alembic executes for every command: the caller's connection and its open transaction."""

from __future__ import annotations

from alembic import context

from coordinator.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
