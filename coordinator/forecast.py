"""What happens to the newest round next, when, and without whom: one line for people."""

from __future__ import annotations

from dataclasses import dataclass, replace

from coordinator.planning import Standing, end_of
from coordinator.rounds import Action, Facts, State, outlook
from coordinator.store.plans import Plan

SILENT_AFTER_SECONDS = 180
"""Without a sign of life for this long a hospital that has not delivered counts as silent."""


@dataclass(frozen=True)
class Ahead:
    """The next step if nobody is heard of any more; ``at`` in seconds since 1970, None for now.

    ``waits_for`` are the hospitals that have not delivered.
    """

    action: str
    at: int | None
    waits_for: tuple[str, ...]
    text: str


def span(seconds: int) -> str:
    """A length of time in its two largest units."""
    if seconds < 60:
        return f"{max(0, seconds)} s"
    minutes = seconds // 60
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def forecast(facts: Facts, extension_minutes: int, opened_at: int, now: int) -> Ahead:
    """What becomes of a round that is not over."""
    # Examining takes a moment; what it finds changes the forecast then.
    facts = replace(facts, examined=True)
    next_ = outlook(facts)
    if facts.state is not State.OPEN:
        doing = {Action.AGGREGATE: "is being aggregated", Action.PUBLISH: "is being published"}
        text = doing.get(next_.action, f"is being aborted: {next_.reason}")
        return Ahead(next_.action.value, None, (), text)
    due = next_.at is None or next_.at <= now
    in_time = "any moment" if due else f"in {span((next_.at or now) - now)}"
    if next_.action is Action.CLOSE:
        text = _closes(facts, opened_at, now, in_time)
    else:
        text = _short(facts, extension_minutes, in_time)
    return Ahead(next_.action.value, next_.at, facts.missing, text + _waiting_for_review(facts))


def _waiting_for_review(facts: Facts) -> str:
    if not facts.quarantined:
        return ""
    return f"; in quarantine: {', '.join(sorted(facts.quarantined))} (`coordinator review list`)"


def _closes(facts: Facts, opened_at: int, now: int, in_time: str) -> str:
    if not facts.missing:
        return f"closes {in_time}: the whole roster has delivered"
    if facts.quarantined and facts.reviewed_at > facts.deadline:
        return f"quorum met; closes {in_time}, after the time for a review"
    silent = {
        hospital: now - max(facts.heard.get(hospital, 0), opened_at) for hospital in facts.missing
    }
    living = [hospital for hospital, s in silent.items() if s <= SILENT_AFTER_SECONDS]
    if living:
        latest = span(facts.deadline - now)
        return f"quorum met; waits for {', '.join(living)}, at the latest {latest} more"
    without = " and ".join(f"{hospital}, silent for {span(s)}" for hospital, s in silent.items())
    return f"closes {in_time} without {without}"


def _short(facts: Facts, extension_minutes: int, in_time: str) -> str:
    lacking = facts.quorum - len(facts.usable)
    updates = "1 more update" if lacking == 1 else f"{lacking} more updates"
    needs = f"needs {updates}, waits for {', '.join(facts.missing) or 'nobody'}"
    if not facts.extensions_left:
        return f"{needs}; otherwise it is aborted {in_time}"
    extended = f"extended by {extension_minutes} min {in_time}"
    return f"{needs}; otherwise {extended}, and {facts.extensions_left - 1} times after that"


def after_the_round(plan: Plan, now: Standing) -> Ahead:
    """What follows a round that is over, by the plan."""
    if reason := end_of(plan, now):
        return Ahead("none", None, (), f"no further round: {reason}")
    text = f"the next round opens any moment: {now.published} of {plan.rounds} are published"
    return Ahead("open", None, (), text)
