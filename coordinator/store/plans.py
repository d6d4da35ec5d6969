"""Plans: several rounds, each opened when the one before is over, with nobody there."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from coordinator.config import RoundSection
from coordinator.store.database import Database
from coordinator.store.log import Log
from coordinator.store.reading import stored
from coordinator.store.tables import plans


@dataclass(frozen=True)
class Plan:
    """``rounds`` are to be published from round ``first`` on, all opened with ``settings``.

    ``max_aborts`` rounds aborted one after the other end it. ``fresh`` says that the first of them
    starts from a new adapter. ``ended`` is why no further round is opened.
    """

    first: int
    rounds: int
    max_aborts: int
    fresh: bool
    settings: RoundSection
    ended: str | None = None


class Plans:
    """All plans; only the newest can be under way."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log

    def newest(self) -> Plan | None:
        """The plan made last."""
        query = select(plans).order_by(plans.c.first.desc()).limit(1)
        with self._database.read() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            return None
        values = dict(found._mapping)
        settings = stored(RoundSection, values.pop("settings"), strict=False)
        return Plan(settings=settings, **values)

    def end(self, plan: Plan, reason: str) -> bool:
        """Open no further round; False where it had ended before."""
        move = (
            update(plans)
            .where(plans.c.first == plan.first, plans.c.ended.is_(None))
            .values(ended=reason)
        )
        with self._database.write() as connection:
            changed = connection.execute(move).rowcount == 1
            if changed:
                detail = f"{plan.rounds} rounds from round {plan.first} on ended: {reason}"
                self._log.append(connection, kind="plan", detail=detail)
        return changed


def insert_plan(connection: Connection, log: Log, plan: Plan) -> None:
    """Note a plan within the transaction that opens its first round."""
    connection.execute(
        insert(plans).values(
            first=plan.first,
            rounds=plan.rounds,
            max_aborts=plan.max_aborts,
            fresh=plan.fresh,
            # Only what a person gave: the rest follows the round before.
            settings=plan.settings.model_dump_json(exclude_unset=True),
        )
    )
    detail = f"{plan.rounds} rounds from round {plan.first} on"
    log.append(connection, kind="plan", round=plan.first, detail=detail)
