"""``coordinator restore``."""

from __future__ import annotations

from pathlib import Path

import click

from coordinator.paths import Paths
from federation.errors import InputError
from federation.terminal import emit, json_option


@click.command("restore")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="New folder to restore to.  [default: that of `coordinator --home`]",
)
@click.option(
    "--fingerprint",
    help="The coordinator's, from paper, or from `appliance status` at any hospital.",
)
@click.option(
    "--wrapping-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The wrapping.pem of the time of the backup, kept elsewhere.",
)
@click.option(
    "--without-wrapping-key",
    is_flag=True,
    help="It is lost: make a new one. A round that was open can only be aborted then.",
)
@json_option
@click.pass_obj
def command(
    paths: Paths,
    folder: Path,
    home: Path | None,
    fingerprint: str | None,
    wrapping_key: Path | None,
    without_wrapping_key: bool,
    as_json: bool,
) -> None:
    """Make a coordinator's home from the backup in FOLDER, which must be whole and unaltered.

    Everything is as it was when the backup was made: rounds opened or finished since then are
    unknown, and their numbers are used again. Updates of the open round that came since then are
    sent again by the hospitals (`appliance train --round N` there).
    """
    from coordinator.restore import restore

    if not fingerprint:
        raise InputError(
            "Give --fingerprint, the coordinator's.",
            hint="`coordinator keys show` told it; `appliance status` at any hospital does.",
        )
    if (wrapping_key is None) is not without_wrapping_key:
        raise InputError(
            "Give either --wrapping-key FILE or --without-wrapping-key.",
            hint="A backup does not hold keys/wrapping.pem; you keep a copy of it elsewhere.",
        )
    target = Paths(home.expanduser().absolute()) if home else paths
    done = restore(folder.absolute(), target, wrapping_key, fingerprint=fingerprint)
    manifest = done.manifest
    emit(
        {
            "home": str(target.home),
            "federation": manifest.federation,
            "made_at": manifest.made_at,
            "round": manifest.round,
            "state": manifest.state,
            "unfinished": done.unfinished,
        },
        f"The coordinator of {manifest.federation} is at {target.home}, "
        f"with {len(manifest.files)} files verified.\n{_next(done.unfinished, wrapping_key)}",
        as_json=as_json,
    )


def _next(unfinished: int | None, wrapping_key: Path | None) -> str:
    if unfinished is None:
        return "Next: coordinator serve"
    if wrapping_key is None:
        return (
            f"The updates of round {unfinished} cannot be opened without its wrapping key.\n"
            "Next: coordinator round close --abort; coordinator serve"
        )
    return (
        f"Next: coordinator serve; then each hospital that had delivered to round {unfinished} "
        f"since the backup:\n  appliance train --round {unfinished}"
    )
