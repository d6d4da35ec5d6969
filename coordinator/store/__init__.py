"""What the coordinator remembers, as narrow stores over one SQL database.

Everything here is portable SQLAlchemy Core; only ``database`` and ``sqlite`` know SQLite. A
PostgreSQL store is one more function beside it (isolation level SERIALIZABLE, since the stores
check and write within one transaction).
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.clock import Clock, system_clock
from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.members import Members
from coordinator.store.plans import Plans
from coordinator.store.reports import Reports
from coordinator.store.reviews import Reviews
from coordinator.store.rotations import Rotations
from coordinator.store.rounds import Rounds
from coordinator.store.successions import Successions
from coordinator.store.uploads import Uploads


@dataclass(frozen=True)
class Store:
    """The stores of one coordinator."""

    database: Database
    members: Members
    rounds: Rounds
    uploads: Uploads
    reports: Reports
    log: Log
    plans: Plans
    rotations: Rotations
    reviews: Reviews
    successions: Successions

    @classmethod
    def over(cls, database: Database, clock: Clock = system_clock) -> Store:
        """The stores in this database; ``clock`` dates what they log."""
        log = Log(database, clock)
        return cls(
            database,
            Members(database, log, clock),
            Rounds(database, log),
            Uploads(database, log),
            Reports(database),
            log,
            Plans(database, log),
            Rotations(database, log),
            Reviews(database, log),
            Successions(database, log),
        )
