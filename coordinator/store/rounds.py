"""Rounds: each transition is one compare-and-set transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Select, Update, func, insert, select, update

from coordinator.rounds import State
from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.plans import Plan, insert_plan
from coordinator.store.reading import stored
from coordinator.store.round_row import RoundRow, round_row
from coordinator.store.tables import rounds, uploads
from federation.errors import RoundError
from federation.messages import RoundDescriptor
from federation.signing import SignedDocument

_UNFINISHED = (State.OPEN, State.CLOSED, State.AGGREGATED)


class Rounds:
    """All rounds of the federation."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    def _first(self, query: Select[Any]) -> RoundRow | None:
        with self._database.read() as connection:
            found = connection.execute(query.limit(1)).one_or_none()
        return round_row(found) if found else None

    def get(self, number: int) -> RoundRow | None:
        """One round."""
        return self._first(select(rounds).where(rounds.c.number == number))

    def newest(self) -> RoundRow | None:
        """The round opened last."""
        return self._first(select(rounds).order_by(rounds.c.number.desc()))

    def last_published(self) -> RoundRow | None:
        """The round whose adapter is the global one."""
        published = select(rounds).where(rounds.c.state == State.PUBLISHED)
        return self._first(published.order_by(rounds.c.number.desc()))

    def states_since(self, number: int) -> list[State]:
        """The states of this round and all after it, in order."""
        query = select(rounds.c.state).where(rounds.c.number >= number).order_by(rounds.c.number)
        with self._database.read() as connection:
            return [State(state) for state in connection.scalars(query)]

    def needed_adapters(self) -> set[str]:
        """Digests of the adapters that some round starts from or ended with."""
        with self._database.read() as connection:
            found = connection.execute(select(rounds.c.descriptor, rounds.c.adapter_sha256)).all()
        signed = [stored(SignedDocument, row.descriptor).body for row in found]
        parents = {stored(RoundDescriptor, body).parent_adapter_sha256 for body in signed}
        return parents | {row.adapter_sha256 for row in found if row.adapter_sha256}

    def add(self, row: RoundRow, plan: Plan | None = None) -> None:
        """Open a round, and with it the ``plan`` that it is the first round of.

        Raises RoundError when another is open or took the number.
        """
        with self._database.write() as connection:
            unfinished = connection.scalar(
                select(rounds.c.number).where(rounds.c.state.in_(_UNFINISHED))
            )
            if unfinished is not None:
                raise RoundError(
                    f"Round {unfinished} is not finished.",
                    hint="`coordinator status` shows it; `coordinator round close` ends it.",
                )
            if row.number != (connection.scalar(select(func.max(rounds.c.number))) or 0) + 1:
                raise RoundError(
                    f"Round {row.number} was opened at the same time.",
                    hint="`coordinator status` shows it.",
                )
            connection.execute(
                insert(rounds).values(
                    number=row.number,
                    state=row.state,
                    descriptor=row.document.to_json().decode(),
                    card=row.card.to_json().decode(),
                    turn=row.turn,
                    wrapped_seed=row.wrapped_seed,
                )
            )
            self._log.append(
                connection,
                kind="opening",
                round=row.number,
                document_sha256=row.document.body_sha256,
            )
            if plan:
                insert_plan(connection, self._log, plan)

    def extend(
        self, number: int, before: SignedDocument | None, extension: SignedDocument, reason: str
    ) -> bool:
        """Give an open round a later deadline; False where ``before`` is not its newest one."""
        kept = before.to_json().decode() if before else None
        move = (
            update(rounds)
            .where(
                rounds.c.number == number,
                rounds.c.state == State.OPEN,
                rounds.c.extension.is_not_distinct_from(kept),
            )
            .values(extension=extension.to_json().decode())
        )
        with self._database.write() as connection:
            changed = connection.execute(move).rowcount == 1
            if changed:
                self._log.append(
                    connection,
                    kind="extension",
                    round=number,
                    document_sha256=extension.body_sha256,
                    detail=reason,
                )
        return changed

    def rewrap(self, anew: Callable[[bytes, int], bytes | None]) -> list[int]:
        """Replace the wrapped secret of every round that has one, in one transaction.

        ``anew`` gets it with the round's number; None leaves it. Gives the rounds changed.
        """
        query = select(rounds.c.number, rounds.c.wrapped_seed).where(
            rounds.c.wrapped_seed.is_not(None)
        )
        changed: list[int] = []
        with self._database.write() as connection:
            for number, wrapped in connection.execute(query).all():
                if (fresh := anew(wrapped, number)) is not None:
                    connection.execute(
                        update(rounds).where(rounds.c.number == number).values(wrapped_seed=fresh)
                    )
                    changed.append(number)
            detail = f"wrapping key; secrets wrapped anew: {changed or 'none'}"
            self._log.append(connection, kind="rotation", detail=detail)
        return changed

    def close(
        self,
        number: int,
        *,
        included: frozenset[str],
        excluded: Mapping[str, str],
        inputs_sha256: str,
        looks: int,
        reason: str,
        now: int,
    ) -> bool:
        """OPEN -> CLOSED with exactly the ``included`` uploads; ``excluded`` maps id -> reason.

        False when the round is not open, or when other updates have been accepted or other
        findings or decisions noted meanwhile.
        """
        move = (
            _moved(number, State.OPEN, State.CLOSED)
            .where(rounds.c.looks == looks)
            .values(inputs_sha256=inputs_sha256, reason=reason, closed_at=now)
        )
        with self._database.write() as connection:
            if _accepted(connection, number) != included | excluded.keys():
                return False
            if connection.execute(move).rowcount != 1:
                return False
            for upload_id, why in excluded.items():
                self._exclude(connection, upload_id, why)
            self._log.append(
                connection, kind="close", round=number, detail=f"{len(included)} updates: {reason}"
            )
        return True

    def exclude(
        self, number: int, upload_id: str, reason: str, *, inputs: str, remaining: str
    ) -> bool:
        """Drop an update that turned out damaged from a CLOSED round with these inputs."""
        with self._database.write() as connection:
            replaced = connection.execute(
                update(rounds)
                .where(
                    rounds.c.number == number,
                    rounds.c.state == State.CLOSED,
                    rounds.c.inputs_sha256 == inputs,
                )
                .values(inputs_sha256=remaining)
            )
            if replaced.rowcount != 1:
                return False
            self._exclude(connection, upload_id, reason)
        return True

    def _exclude(self, connection: Connection, upload_id: str, reason: str) -> None:
        row = connection.execute(
            update(uploads)
            .where(uploads.c.upload_id == upload_id)
            .values(state="excluded", reason=reason)
            .returning(uploads.c.hospital, uploads.c.round)
        ).one()
        self._log.append(
            connection,
            kind="exclusion",
            hospital=row.hospital,
            round=row.round,
            detail=f"upload {upload_id}: {reason}",
        )

    def aggregated(
        self, number: int, *, inputs_sha256: str, adapter_sha256: str, contributions: str
    ) -> bool:
        """CLOSED -> AGGREGATED, if the inputs are still those that were aggregated."""
        move = _moved(number, State.CLOSED, State.AGGREGATED).where(
            rounds.c.inputs_sha256 == inputs_sha256
        )
        with self._database.write() as connection:
            changed = connection.execute(
                move.values(adapter_sha256=adapter_sha256, contributions=contributions)
            )
            if changed.rowcount == 1:
                self._log.append(
                    connection,
                    kind="aggregation",
                    round=number,
                    detail=f"adapter {adapter_sha256} of inputs {inputs_sha256}",
                )
        return changed.rowcount == 1

    def published(self, number: int, *, adapter_sha256: str, record: SignedDocument) -> bool:
        """AGGREGATED -> PUBLISHED; destroys the round's secret."""
        move = _moved(number, State.AGGREGATED, State.PUBLISHED).where(
            rounds.c.adapter_sha256 == adapter_sha256
        )
        with self._database.write() as connection:
            changed = connection.execute(
                move.values(record=record.to_json().decode(), wrapped_seed=None)
            )
            if changed.rowcount == 1:
                self._log.append(
                    connection,
                    kind="publication",
                    round=number,
                    document_sha256=record.body_sha256,
                    detail=f"adapter {adapter_sha256}",
                )
        return changed.rowcount == 1

    def aborted(
        self,
        number: int,
        before: State,
        *,
        accepted: frozenset[str],
        excluded: Mapping[str, str],
        looks: int,
        reason: str,
        record: SignedDocument,
        now: int,
    ) -> bool:
        """``before`` -> ABORTED; destroys the round's secret. ``excluded`` as for ``close``.

        False as for ``close``, with ``accepted`` what the record was made of.
        """
        move = (
            _moved(number, before, State.ABORTED)
            .where(rounds.c.looks == looks)
            .values(
                record=record.to_json().decode(),
                reason=reason,
                wrapped_seed=None,
                closed_at=func.coalesce(rounds.c.closed_at, now),
            )
        )
        with self._database.write() as connection:
            if _accepted(connection, number) != accepted:
                return False
            changed = connection.execute(move)
            if changed.rowcount == 1:
                for upload_id, why in excluded.items():
                    self._exclude(connection, upload_id, why)
                self._log.append(
                    connection,
                    kind="abort",
                    round=number,
                    document_sha256=record.body_sha256,
                    detail=reason,
                )
        return changed.rowcount == 1


def _accepted(connection: Connection, number: int) -> frozenset[str]:
    query = select(uploads.c.upload_id).where(
        uploads.c.round == number, uploads.c.state == "accepted"
    )
    return frozenset(connection.scalars(query))


def _moved(number: int, before: State, after: State) -> Update:
    return (
        update(rounds)
        .where(rounds.c.number == number, rounds.c.state == before)
        .values(state=after)
    )
