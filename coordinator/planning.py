"""Rounds that follow one another with nobody there: the plan is durable, the next step is pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.config import RoundSection
from coordinator.context import Coordinator
from coordinator.opening import open_round
from coordinator.rounds import FINAL, State
from coordinator.store.plans import Plan
from coordinator.store.round_row import RoundRow
from federation.errors import AdapterError, InputError, RoundError


@dataclass(frozen=True)
class Standing:
    """How far a plan is: rounds published so far, and aborted since the last of these."""

    published: int
    aborted: int
    under_way: bool


def standing(states: Sequence[State]) -> Standing:
    """From the states of a plan's rounds, in their order."""
    published = [i for i, state in enumerate(states) if state is State.PUBLISHED]
    after = states[published[-1] + 1 :] if published else states
    return Standing(
        published=len(published),
        aborted=sum(state is State.ABORTED for state in after),
        under_way=any(state not in FINAL for state in after),
    )


def end_of(plan: Plan, now: Standing) -> str | None:
    """Why a plan opens no further round; None while it goes on. An aborted round is repeated."""
    if plan.ended:
        return plan.ended
    if now.published >= plan.rounds:
        return f"all {plan.rounds} rounds are published"
    if now.aborted >= plan.max_aborts:
        in_a_row = f"{now.aborted} rounds in a row were" if now.aborted > 1 else "a round was"
        return f"{in_a_row} aborted, with {plan.rounds - now.published} of {plan.rounds} to go"
    return None


def current(coordinator: Coordinator) -> tuple[Plan, Standing] | None:
    """The newest plan and how far it is; None where there was none."""
    plan = coordinator.store.plans.newest()
    if plan is None:
        return None
    return plan, standing(coordinator.store.rounds.states_since(plan.first))


def open_rounds(
    coordinator: Coordinator,
    settings: RoundSection,
    *,
    rounds: int = 1,
    max_aborts: int = 1,
    base: Path | None = None,
    fresh: bool = False,
) -> RoundRow:
    """Open a round, and plan that ``rounds`` are published one after the other from it on.

    Raises RoundError while another plan is under way, and the errors of ``open_round``.
    """
    found = current(coordinator)
    if found and end_of(*found) is None:
        raise RoundError(
            f"A plan of {found[0].rounds} rounds is under way and opens the next one itself.",
            hint="`coordinator round plan` shows it, `coordinator round cancel` ends it.",
        )

    def plan(first: int) -> Plan:
        return Plan(first, rounds, max_aborts, fresh, settings)

    return open_round(
        coordinator, settings, base=base, fresh=fresh, plan=plan if rounds > 1 else None
    )


def follow_plan(coordinator: Coordinator) -> None:
    """Open the plan's next round where it is time, or note why there is none; safe to repeat.

    Raises StorageError when the disk refuses: then it is tried again.
    """
    found = current(coordinator)
    if found is None or found[0].ended:
        return
    plan, now = found
    if now.under_way:
        return
    reason = end_of(plan, now)
    if reason is None:
        fresh = plan.fresh and not now.published
        try:
            open_round(coordinator, plan.settings, fresh=fresh)
        except RoundError:
            return  # Another process opened it: what follows is decided at the next step.
        except (InputError, AdapterError) as error:
            reason = f"the next round could not be opened: {error}"
        else:
            return
    _end(coordinator, plan, reason)


def cancel(coordinator: Coordinator) -> Plan:
    """Open no further round; one that is open goes on. Raises RoundError without a plan."""
    found = current(coordinator)
    if found is None or end_of(*found) is not None:
        raise RoundError("No plan is under way.", hint="`coordinator round open --rounds N`.")
    _end(coordinator, found[0], "cancelled by the administrator")
    return found[0]


def _end(coordinator: Coordinator, plan: Plan, reason: str) -> None:
    if coordinator.store.plans.end(plan, reason):
        coordinator.emit("plan_ended", first=plan.first, rounds=plan.rounds, reason=reason)
