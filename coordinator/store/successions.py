"""The coordinator's own signing keys: which took whose place, as signed by both and the admin."""

from __future__ import annotations

from sqlalchemy import func, insert, select

from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.reading import stored
from coordinator.store.tables import successions
from federation.errors import StorageError
from federation.messages import PublicIdentity
from federation.signing import SignedDocument, fingerprint
from federation.succession import SignedSuccession, Succession, SuccessionChain


class Successions:
    """All successions since the founding keys; the newest row decides which keys sign."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    def newest_keys(self) -> str | None:
        """Digest of the keys that sign now; None where the founding ones still do."""
        query = select(successions.c.new_sha256).order_by(successions.c.number.desc()).limit(1)
        with self._database.read() as connection:
            return connection.scalar(query)

    def chain(self) -> SuccessionChain:
        """All of them, oldest first."""
        query = select(successions).order_by(successions.c.number)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return SuccessionChain(
            links=tuple(
                SignedSuccession(
                    by_admin=stored(SignedDocument, row.by_admin),
                    by_former=stored(SignedDocument, row.by_former),
                )
                for row in rows
            )
        )

    def add(self, succession: Succession, signed: SignedSuccession) -> None:
        """Let the new keys sign from now on. Raises StorageError unless it is the next one."""
        with self._database.write() as connection:
            last = connection.scalar(select(func.max(successions.c.number))) or 0
            if succession.number != last + 1:
                raise StorageError(
                    "The coordinator's keys were replaced at the same time.",
                    hint="`coordinator keys show` shows them.",
                )
            connection.execute(
                insert(successions).values(
                    number=succession.number,
                    new_sha256=succession.new.digest(),
                    by_admin=signed.by_admin.to_json().decode(),
                    by_former=signed.by_former.to_json().decode(),
                )
            )
            self._log.append(
                connection,
                kind="succession",
                document_sha256=signed.sha256,
                detail=_described(succession.former, succession.new),
            )


def _described(former: PublicIdentity, new: PublicIdentity) -> str:
    return f"the keys {fingerprint(new)} in place of {fingerprint(former)}"
