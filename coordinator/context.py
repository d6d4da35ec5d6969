"""Wires a coordinator's home to the collaborators that its services take."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache

from pydantic import ValidationError

from coordinator.blobs import Blobs
from coordinator.clock import Clock, system_clock
from coordinator.config import CoordinatorConfig, LimitsSection, ValidationSection
from coordinator.events import Emit, quiet
from coordinator.locks import last_held
from coordinator.paths import Paths
from coordinator.signing_keys import SigningKeys
from coordinator.store import Store
from coordinator.store.database import open_sqlite
from coordinator.store.members import Members
from coordinator.wrapping import Wrapping
from federation.errors import ConfigError, StorageError
from federation.membership import Roster
from federation.messages import PublicIdentity
from federation.signing import Identity

PASSPHRASE = "COORDINATOR_PASSPHRASE"


def passphrase() -> str | None:
    """What protects the coordinator's keys, from the environment."""
    return os.environ.get(PASSPHRASE) or None


@dataclass(frozen=True)
class Coordinator:
    """All that the services work with."""

    federation: str
    keys: SigningKeys
    admin: PublicIdentity
    wrapping: Wrapping
    store: Store
    blobs: Blobs
    clock: Clock = system_clock
    emit: Emit = quiet
    awake_since: int = 0
    """From when on it listens; nobody was silent before."""
    limits: LimitsSection = field(default_factory=LimitsSection)
    validation: ValidationSection = field(default_factory=ValidationSection)

    @property
    def identity(self) -> Identity:
        """The coordinator's own signing keys as they are now; a rotation replaces them."""
        return self.keys.current()

    def roster(self) -> Roster:
        """The current roster, its signature by the admin key verified."""
        return self.roster_of(self.store.members.roster_digest())

    def roster_of(self, sha256: str) -> Roster:
        """The roster with this digest, its signature verified."""
        return _verified(self.store.members, sha256, self.admin)


@lru_cache(maxsize=4)
def _verified(members: Members, sha256: str, admin: PublicIdentity) -> Roster:
    # Once for each: with hundreds of members it takes longer, and more memory, than all else that
    # a request needs.
    document = members.roster_by_digest(sha256)
    assert document is not None
    return document.open(Roster, admin, "roster")


def open_coordinator(
    paths: Paths, config: CoordinatorConfig, *, clock: Clock = system_clock, emit: Emit = quiet
) -> Coordinator:
    """The coordinator in this home.

    Raises IdentityError for its keys, StorageError for its state, ConfigError when the
    configuration names another federation than the one whose roster was signed.
    """
    try:
        admin = PublicIdentity.model_validate_json(paths.admin_public.read_bytes())
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{paths.admin_public} cannot be read: {error}.",
            hint="Restore the file from a backup of the coordinator's home.",
        ) from error
    store = Store.over(open_sqlite(paths.database), clock)
    coordinator = Coordinator(
        federation=config.federation.name,
        keys=SigningKeys(paths.identity, store.successions, passphrase()),
        admin=admin,
        wrapping=Wrapping(paths.wrapping_key, passphrase()),
        store=store,
        blobs=Blobs(paths.adapters, paths.uploads, config.limits.disk_reserve_mib << 20),
        clock=clock,
        emit=emit,
        awake_since=last_held(paths.home),
        limits=config.limits,
        validation=config.validation,
    )
    signed = coordinator.roster().federation
    if signed != coordinator.federation:
        raise ConfigError(
            f"{paths.config} names the federation {coordinator.federation}, but it is {signed}.",
            hint="Set [federation] name back; every signed document holds it.",
        )
    return coordinator
