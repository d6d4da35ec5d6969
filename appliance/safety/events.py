"""What a guarded answer consists of; the command line, the screens and the endpoint show these.

Each event's ``text`` is for the person. In the order of an answer: notices, then sentences
(released or replaced), a refusal in their place, notices about confidence, and ``Finished``.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.safety.findings import Action, Finding, Kind, Side


@dataclass(frozen=True)
class Notice:
    """A message beside the answer, shown as soon as it comes; each kind comes at most once.

    ``kind`` is a guardrail's, or ``low_confidence`` or ``high_confidence``.
    """

    kind: Kind
    text: str


@dataclass(frozen=True)
class Sentence:
    """A piece of the answer that passed, with the space that followed it."""

    text: str


@dataclass(frozen=True)
class Replaced:
    """A cautious sentence in the place of one that was withheld because of ``reason``."""

    text: str
    reason: Kind


@dataclass(frozen=True)
class Refused:
    """The answer ends here, or never began; ``text`` says why and where to turn."""

    kind: Kind
    side: Side
    text: str


@dataclass(frozen=True)
class Verdict:
    """One finding and on which side; what the log of an answer keeps."""

    side: Side
    kind: Kind
    action: Action
    excerpt: str

    @classmethod
    def of(cls, side: Side, finding: Finding) -> Verdict:
        """The verdict of a finding."""
        return cls(side, finding.kind, finding.action, finding.excerpt)


@dataclass(frozen=True)
class Finished:
    """The last event of every answer.

    ``answer`` is all that was shown as the answer, refusal included; ``confidence`` is the
    geometric mean of the token probabilities, None when no token was generated.
    """

    answer: str
    confidence: float | None
    verdicts: tuple[Verdict, ...]
    disclaimer: str

    @property
    def text(self) -> str:
        """The confidence, where there is one, and the disclaimer."""
        if self.confidence is None:
            return self.disclaimer
        return f"Model confidence {self.confidence:.2f}. {self.disclaimer}"


GuardEvent = Notice | Sentence | Replaced | Refused | Finished


class PlainText:
    """Turns the events of one answer into a stream of plain text.

    The answer's sentences go on, all else stands in paragraphs of its own.
    """

    def __init__(self) -> None:
        self._previous: GuardEvent | None = None

    def add(self, event: GuardEvent) -> str:
        """The text that this event adds."""
        previous, self._previous = self._previous, event
        together = previous is None or (_is_answer(previous) and _is_answer(event))
        return event.text if together else f"\n\n{event.text}"


def _is_answer(event: GuardEvent) -> bool:
    return isinstance(event, Sentence | Replaced)
