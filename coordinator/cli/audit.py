"""``coordinator audit export`` and ``audit verify``."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.cli import load_coordinator
from coordinator.paths import Paths
from federation.terminal import emit, json_option


@click.group("audit")
def command() -> None:
    """Export or verify the audit log: every act of this coordinator, as a Merkle tree."""


@command.command("export")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: standard output]",
)
@click.pass_obj
def export(paths: Paths, out: Path | None) -> None:
    """Write every entry as one line of JSON, and last the signed checkpoint of them all.

    The leaf of an entry is the SHA-256 of a zero byte and the line without its end (RFC 9162). An
    altered log ends with an error, exit code 9, and no checkpoint.
    """
    from coordinator import audit
    from federation.files import atomic_writer

    lines = audit.export(load_coordinator(paths))
    if out is None:
        for line in lines:
            click.echo(line)
        return
    with atomic_writer(out) as file:
        file.writelines(f"{line}\n".encode() for line in lines)


@command.command("verify")
@json_option
@click.pass_obj
def verify(paths: Paths, as_json: bool) -> None:
    """Compare the log with its hashes, its last signed checkpoint and the documents stored.

    Finds a database that was edited. Exits with 9 where something differs. Works whether the
    server runs or not.
    """
    from coordinator import audit
    from federation.errors import StorageError

    found = audit.verify(load_coordinator(paths))
    if found.findings:
        if as_json:
            emit({"findings": found.findings}, "", as_json=True)
        for finding in found.findings:
            click.echo(f"  {finding}", err=True)
        raise StorageError("The database is not what was logged.", hint=audit.ALTERED)
    emit(
        {"size": found.size, "root_sha256": found.root_sha256, "documents": found.documents},
        f"{found.size} entries and {found.documents} signed documents are as they were logged.\n"
        f"Root {found.root_sha256}",
        as_json=as_json,
    )
