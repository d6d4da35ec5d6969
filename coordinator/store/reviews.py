"""What was found about accepted updates, what a person decided, and validated losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import Connection, insert, select, update

from coordinator.aggregation import ValidatedLoss
from coordinator.rounds import State
from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.reading import stored
from coordinator.store.tables import findings, rounds, uploads, validations
from federation.findings import ChangeFigures, UpdateFinding

_UNREADABLE = "it cannot be read any more"

Decided = Literal["admitted", "excluded"]


@dataclass(frozen=True)
class Review:
    """An update's newest finding, and the decision about it, if there is one.

    ``found_at`` is since when it was found as odd, or as usual, as it is now. ``decision`` is that
    of a person; of an update that cannot be read any more, the coordinator's.
    """

    upload_id: str
    finding: UpdateFinding
    found_at: int
    decision: Decided | None = None
    decision_reason: str | None = None

    @property
    def suspicious(self) -> bool:
        """Whether something about the update is odd."""
        return bool(self.finding.reasons)

    @property
    def odd(self) -> str:
        """What is odd, in one line; empty where nothing is."""
        return "; ".join(self.finding.reasons)


class Reviews:
    """Findings and decisions by upload.

    Each change counts up ``rounds.looks``, so that a round never closes on less than is known.
    """

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    def of_round(self, number: int) -> dict[str, Review]:
        """The reviews of a round's updates, by upload id."""
        with self._database.read() as connection:
            return _of_round(connection, number)

    def usual_figures(self, number: int, depth: int) -> dict[str, list[ChangeFigures]]:
        """Each hospital's figures in the ``depth`` published rounds before, oldest first.

        Only of rounds in which nothing about its update was odd.
        """
        query = (
            select(rounds.c.number)
            .where(rounds.c.number < number, rounds.c.state == State.PUBLISHED)
            .order_by(rounds.c.number.desc())
            .limit(depth)
        )
        found: dict[str, list[ChangeFigures]] = {}
        with self._database.read() as connection:
            for before in reversed(list(connection.scalars(query))):
                names = _hospitals(connection, before)
                for upload_id, review in _of_round(connection, before).items():
                    if not review.suspicious and review.finding.figures:
                        found.setdefault(names[upload_id], []).append(review.finding.figures)
        return found

    def examined(
        self,
        number: int,
        examined_sha256: str,
        found: Mapping[str, UpdateFinding],
        *,
        unreadable: Sequence[str],
        validation: str,
        now: int,
    ) -> list[str]:
        """Remember what was found about an open round's updates, together ``examined_sha256``.

        Those that are ``unreadable`` are excluded at once. Gives the ids that turned odd.
        """
        with self._database.write() as connection:
            if not _looked(
                connection, number, examined_sha256=examined_sha256, validation=validation
            ):
                return []
            before = _of_round(connection, number)
            names = _hospitals(connection, number)
            turned: list[str] = []
            for upload_id, finding in found.items():
                was = before.get(upload_id)
                newly_odd = bool(finding.reasons) and not (was and was.suspicious)
                same = was is not None and was.suspicious == bool(finding.reasons)
                values = {
                    "finding": finding.to_json().decode(),
                    "found_at": was.found_at if was and same else now,
                }
                if upload_id in unreadable:
                    values |= {"decision": "excluded", "decision_reason": _UNREADABLE}
                if was is None:
                    connection.execute(insert(findings).values(upload_id=upload_id, **values))
                else:
                    row = findings.c.upload_id == upload_id
                    connection.execute(update(findings).where(row).values(values))
                if newly_odd:
                    turned.append(upload_id)
                    self._log.append(
                        connection,
                        kind="finding",
                        hospital=names[upload_id],
                        round=number,
                        detail=f"upload {upload_id}: {'; '.join(finding.reasons)}",
                    )
        return turned

    def decide(self, number: int, upload_id: str, decision: Decided, reason: str) -> bool:
        """A person's decision about an examined update of an open round; False where it is not."""
        with self._database.write() as connection:
            if not _looked(connection, number):
                return False
            changed = connection.execute(
                update(findings)
                .where(findings.c.upload_id == upload_id)
                .values(decision=decision, decision_reason=reason)
            )
            if changed.rowcount == 1:
                self._log.append(
                    connection,
                    kind="review",
                    hospital=_hospitals(connection, number)[upload_id],
                    round=number,
                    detail=f"upload {upload_id} {decision}: {reason}",
                )
        return changed.rowcount == 1

    def validated(self, set_sha256: str, upload_ids: Sequence[str]) -> dict[str, ValidatedLoss]:
        """What is known of these updates on this validation set."""
        query = select(validations).where(
            validations.c.set_sha256 == set_sha256, validations.c.upload_id.in_(upload_ids)
        )
        with self._database.read() as connection:
            return {
                row.upload_id: ValidatedLoss(row.loss, row.variance)
                for row in connection.execute(query)
            }

    def keep_loss(self, upload_id: str, set_sha256: str, found: ValidatedLoss) -> None:
        """Remember one update's loss; a second measurement of the same changes nothing."""
        with self._database.write() as connection:
            known = connection.scalar(
                select(validations.c.loss).where(
                    validations.c.upload_id == upload_id, validations.c.set_sha256 == set_sha256
                )
            )
            if known is None:
                row = {"upload_id": upload_id, "set_sha256": set_sha256, **asdict(found)}
                connection.execute(insert(validations).values(row))


def _looked(connection: Connection, number: int, **values: str) -> bool:
    """Count up an open round's looks, so that who decided on less has to look again."""
    changed = connection.execute(
        update(rounds)
        .where(rounds.c.number == number, rounds.c.state == State.OPEN)
        .values(looks=rounds.c.looks + 1, **values)
    )
    return changed.rowcount == 1


def _of_round(connection: Connection, number: int) -> dict[str, Review]:
    query = (
        select(findings)
        .join(uploads, uploads.c.upload_id == findings.c.upload_id)
        .where(uploads.c.round == number)
        .order_by(uploads.c.hospital, uploads.c.upload_id)
    )
    return {
        row.upload_id: Review(
            row.upload_id,
            stored(UpdateFinding, row.finding),
            row.found_at,
            row.decision,
            row.decision_reason,
        )
        for row in connection.execute(query)
    }


def _hospitals(connection: Connection, number: int) -> dict[str, str]:
    query = select(uploads.c.upload_id, uploads.c.hospital).where(uploads.c.round == number)
    return {row.upload_id: row.hospital for row in connection.execute(query)}
