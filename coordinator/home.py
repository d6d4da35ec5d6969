"""Making a coordinator's home: configuration, keys, certificate authority, empty roster."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from coordinator.certificates import Authority, TlsFiles
from coordinator.clock import Clock, system_clock
from coordinator.config import CoordinatorConfig, FederationSection, ServerSection
from coordinator.context import passphrase
from coordinator.paths import Paths
from coordinator.store import Store, sqlite
from coordinator.store.database import create_sqlite
from coordinator.wrapping import WrappingKey
from federation.errors import ConfigError, InputError
from federation.files import storage_errors, write_atomically
from federation.membership import Roster
from federation.messages import PublicIdentity
from federation.signing import Identity, SignedDocument

_EVERY_INTERFACE = ("0.0.0.0", "::")

_TOML = """\
# Configuration of a FedMed coordinator. Precedence: flag > environment > this file > default.
# [round] holds the defaults of `coordinator round open`: its --help lists every key.
# [limits] and [metrics] are explained in docs/operations.md.

[federation]
name = {name}

[server]
host = {host}
port = {port}
url = {url}            # what hospitals connect to; empty: https://host:port
tls_cert = {tls_cert}       # empty: the coordinator's own authority, sent with each invite
tls_key = {tls_key}

[round]
"""


@dataclass(frozen=True)
class NewHome:
    """What ``create_home`` made, for the person to act on."""

    admin: PublicIdentity
    coordinator: PublicIdentity
    admin_key: Path


def create_home(
    paths: Paths,
    federation: FederationSection,
    server: ServerSection,
    *,
    admin_key: Path | None = None,
    admin_passphrase: str | None = None,
    clock: Clock = system_clock,
) -> NewHome:
    """Make everything that ``serve`` needs.

    A run that was cut off may be repeated. Raises ConfigError where a home exists already,
    InputError for settings that cannot work, StorageError when the disk refuses.
    """
    if paths.config.exists():
        raise ConfigError(
            f"There is a coordinator at {paths.home} already; nothing was changed.",
            hint="Choose another --home, or move that one away.",
        )
    _check_never_used(paths)
    _check_server(server)
    admin_path = admin_key or paths.admin_key
    # Without a configuration, a key at the default place is left from a run that was cut off.
    if admin_key and admin_key.exists():
        raise InputError(
            f"{admin_key} exists already; nothing was changed.",
            hint="Choose another file for --admin-key, or move that one away.",
        )
    with storage_errors(paths.home):
        paths.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (paths.keys, paths.tls, paths.adapters, paths.uploads):
            folder.mkdir(mode=0o700, exist_ok=True)
    admin, own = Identity.generate(), Identity.generate()
    admin.save(admin_path, admin_passphrase)
    own.save(paths.identity, passphrase())
    WrappingKey.create(paths.wrapping_key, passphrase())
    write_atomically(paths.admin_public, admin.public().to_json())
    if not server.tls_cert:
        Authority(paths.tls).create(federation.name, clock(), passphrase())
    roster = Roster(federation=federation.name, version=0, members=())
    sqlite.remove(paths.database)
    database = create_sqlite(paths.database)
    document = SignedDocument.sign(roster, admin, "roster")
    Store.over(database, clock).members.add_roster(0, document, kind="founding")
    database.close()
    # The configuration comes last: with it the home is complete.
    write_atomically(paths.config, _toml(federation, server).encode(), mode=0o600)
    return NewHome(admin.public(), own.public(), admin_path)


def _check_never_used(paths: Paths) -> None:
    # Every round that was opened has its adapter here: keys and roster would be lost with it.
    if paths.adapters.is_dir() and any(paths.adapters.iterdir()):
        raise ConfigError(
            f"{paths.home} holds a coordinator's adapters, but no {paths.config.name}.",
            hint="Restore that file, or choose another --home.",
        )


def _check_server(server: ServerSection) -> None:
    if bool(server.tls_cert) != bool(server.tls_key):
        raise InputError(
            "Give --tls-cert and --tls-key together.",
            hint="Without both, the coordinator makes its own certificate.",
        )
    for path in (server.tls_cert, server.tls_key):
        if path and not Path(path).is_file():
            raise InputError(
                f"There is no file {path}.",
                hint="--tls-cert is the certificate chain, --tls-key its private key, both PEM.",
            )
    if server.host in _EVERY_INTERFACE and not server.url:
        raise InputError(
            f"Hospitals cannot connect to {server.host}.",
            hint="Give --url: the address of this machine that hospitals see.",
        )
    parts = urlsplit(server.public_url)
    if parts.scheme != "https" or not parts.hostname:
        raise InputError(
            f"--url {server.url!r} is not an https:// address.",
            hint="Such as https://coordinator.example:8443, as hospitals reach it.",
        )


def _toml(federation: FederationSection, server: ServerSection) -> str:
    # A JSON string is a TOML basic string.
    values = {key: json.dumps(value) for key, value in server.model_dump().items()}
    return _TOML.format(name=json.dumps(federation.name), **values)


def tls_files(paths: Paths, config: CoordinatorConfig, clock: Clock = system_clock) -> TlsFiles:
    """Certificate and key to serve with: the operator's, else the own authority's.

    Raises InputError when the operator's files are missing, IdentityError for the own.
    """
    server = config.server
    _check_server(server)
    if server.tls_cert:
        return TlsFiles(Path(server.tls_cert), Path(server.tls_key))
    hosts = {server.host, str(urlsplit(server.public_url).hostname)} - set(_EVERY_INTERFACE)
    return Authority(paths.tls).server_files(hosts, clock(), passphrase())


def ca_certificate(paths: Paths, config: CoordinatorConfig) -> str | None:
    """What an invite carries: the own authority's certificate, None for an operator's."""
    if config.server.tls_cert:
        return None
    return Authority(paths.tls).certificate.read_text(encoding="ascii")
