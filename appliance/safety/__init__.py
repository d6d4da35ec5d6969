"""Guardrails around every answer, the same for the command line, the screens and an endpoint.

>>> guardrails = Guardrails(Thresholds(low=0.3, high=0.95))
>>> for event in guardrails.guard(question, model.generate(messages, options)):
...     show(event)  # a Notice, Sentence, Replaced, Refused or, at the end, Finished

``PlainText`` turns the events into text where there is nothing better to show them with.
"""

from appliance.safety.confidence import Thresholds, confidence
from appliance.safety.events import (
    Finished,
    GuardEvent,
    Notice,
    PlainText,
    Refused,
    Replaced,
    Sentence,
    Verdict,
)
from appliance.safety.findings import Finding
from appliance.safety.stream import DISCLAIMER, Guardrails, ScoredToken

__all__ = [
    "DISCLAIMER",
    "Finding",
    "Finished",
    "GuardEvent",
    "Guardrails",
    "Notice",
    "PlainText",
    "Refused",
    "Replaced",
    "ScoredToken",
    "Sentence",
    "Thresholds",
    "Verdict",
    "confidence",
]
