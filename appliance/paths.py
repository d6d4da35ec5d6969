"""Where an appliance keeps things; one home folder, printed by ``appliance paths``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The files and folders below one appliance's home."""

    home: Path

    @property
    def config(self) -> Path:
        """The appliance's configuration, TOML."""
        return self.home / "appliance.toml"

    @property
    def policy(self) -> Path:
        """The hospital's policy, TOML; no coordinator can change it."""
        return self.home / "policy.toml"

    @property
    def keys(self) -> Path:
        """This hospital's private signing keys, mode 0600; they never leave."""
        return self.home / "keys" / "signing.pem"

    @property
    def next_keys(self) -> Path:
        """Keys that wait for the coordinator to take the place of these."""
        return self.keys.with_name("next.pem")

    @property
    def previous_keys(self) -> Path:
        """The keys before these, while a round may need them."""
        return self.keys.with_name("previous.pem")

    @property
    def enrolment(self) -> Path:
        """What enrolling fixed: hospital, coordinator, its keys, its CA."""
        return self.home / "enrolment.json"

    @property
    def coordinator_keys(self) -> Path:
        """Keys that took the place of the coordinator's since enrolling; none where none did."""
        return self.home / "coordinator-keys.json"

    @property
    def data(self) -> Path:
        """Imported training and held-out examples."""
        return self.home / "data"

    @property
    def models(self) -> Path:
        """Base models, one folder each. May be shared by several homes (FEDMED_MODELS)."""
        shared = os.environ.get("FEDMED_MODELS")
        return Path(shared) if shared else self.home / "models"

    @property
    def adapters(self) -> Path:
        """Global adapters by round, and the local one."""
        return self.home / "adapters"

    @property
    def rounds(self) -> Path:
        """One folder for each round that this hospital took part in."""
        return self.home / "rounds"

    def round(self, number: int) -> Path:
        """The folder of one round: descriptor, trained adapter, sealed update, receipt."""
        return self.rounds / f"{number:04d}"

    @property
    def audit(self) -> Path:
        """What was seen of the coordinator's audit log, and proofs from it."""
        return self.home / "audit"

    def listing(self) -> dict[str, str]:
        """Name -> path, for people and scripts."""
        names = (
            "home",
            "config",
            "policy",
            "keys",
            "enrolment",
            "coordinator_keys",
            "data",
            "models",
            "adapters",
            "rounds",
            "audit",
        )
        return {name: str(getattr(self, name)) for name in names}


def default_home() -> Path:
    """FEDMED_HOME, or the platform's place for application data."""
    if home := os.environ.get("FEDMED_HOME"):
        return Path(home)
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "fedmed"
