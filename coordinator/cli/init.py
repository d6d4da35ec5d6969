"""``coordinator init``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from coordinator.paths import Paths
from federation.terminal import emit, json_option

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("init")
@click.option("--federation", required=True, help="Name of the federation, such as gastro-net.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8443, show_default=True, help="Port to listen on.")
@click.option("--url", default="", help="Address hospitals use.  [default: https://host:port]")
@click.option("--tls-cert", type=_FILE, help="Your own certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, help="Private key of --tls-cert, PEM.")
@click.option("--admin-key", type=_FILE, help="Where to write the admin key, such as a USB stick.")
@json_option
@click.pass_obj
def command(
    paths: Paths,
    federation: str,
    host: str,
    port: int,
    url: str,
    tls_cert: Path | None,
    tls_key: Path | None,
    admin_key: Path | None,
    as_json: bool,
) -> None:
    """Make a coordinator's home: keys, certificate authority, empty roster, database.

    COORDINATOR_PASSPHRASE, where set, protects the coordinator's keys, and
    FEDMED_ADMIN_PASSPHRASE the admin key.
    """
    from pydantic import ValidationError

    from coordinator.config import FederationSection, ServerSection
    from coordinator.home import create_home
    from federation.errors import InputError
    from federation.signing import fingerprint

    try:
        name = FederationSection(name=federation)
        server = ServerSection(
            host=host,
            port=port,
            url=url.rstrip("/"),
            tls_cert=str(tls_cert.absolute()) if tls_cert else "",
            tls_key=str(tls_key.absolute()) if tls_key else "",
        )
    except ValidationError as error:
        problem = error.errors()[0]
        option = {"name": "federation"}.get(str(problem["loc"][0]), str(problem["loc"][0]))
        raise InputError(f"--{option.replace('_', '-')}: {problem['msg']}.") from error
    made = create_home(
        paths,
        name,
        server,
        admin_key=admin_key.absolute() if admin_key else None,
        admin_passphrase=os.environ.get("FEDMED_ADMIN_PASSPHRASE"),
    )
    emit(
        {
            "home": str(paths.home),
            "federation": federation,
            "url": server.public_url,
            "admin_key": str(made.admin_key),
            "admin_fingerprint": fingerprint(made.admin),
            "coordinator_fingerprint": fingerprint(made.coordinator),
        },
        f"The coordinator of {federation} is at {paths.home}; hospitals reach it at "
        f"{server.public_url}.\n"
        f"Admin key: {made.admin_key}\n"
        "  Whoever holds it decides who is a member. Move it offline, to a USB stick in a safe,\n"
        "  and give its place with --admin-key when you approve or revoke.\n"
        f"Fingerprint of the coordinator's own keys: {fingerprint(made.coordinator)}\n"
        "  Keep it on paper: `coordinator restore` asks for it.\n"
        "Next: coordinator serve; coordinator invite HOSPITAL",
        as_json=as_json,
    )
