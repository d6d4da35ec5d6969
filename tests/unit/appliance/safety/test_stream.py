from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.safety import (
    DISCLAIMER,
    Finished,
    GuardEvent,
    Guardrails,
    Notice,
    PlainText,
    Refused,
    Replaced,
    Sentence,
    Thresholds,
)
from backends.base import Token

GUARDRAILS = Guardrails()
HARMLESS = "What does bradycardia mean?"


class Engine:
    """A stream of tokens that knows how many were taken and whether it was closed."""

    def __init__(self, *pieces: str, probability: float = 0.6) -> None:
        self.taken = 0
        self.closed = False
        self._pieces = iter(pieces)
        self._probability = probability

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        piece = next(self._pieces)
        self.taken += 1
        return Token(piece, self._probability)

    def close(self) -> None:
        self.closed = True


def answer(question: str, *pieces: str, probability: float = 0.6) -> list[GuardEvent]:
    return list(GUARDRAILS.guard(question, Engine(*pieces, probability=probability)))


def finished(events: list[GuardEvent]) -> Finished:
    last = events[-1]
    assert isinstance(last, Finished)
    return last


def test_a_harmless_answer_passes_unchanged_with_disclaimer_and_confidence() -> None:
    events = answer(HARMLESS, "A slow ", "heart rate. ", "Below 60", " a minute.")
    assert events[:-1] == [Sentence("A slow heart rate. "), Sentence("Below 60 a minute.")]
    end = finished(events)
    assert end.answer == "A slow heart rate. Below 60 a minute."
    assert end.confidence == pytest.approx(0.6)
    assert end.verdicts == ()
    assert end.disclaimer == DISCLAIMER
    assert end.text == f"Model confidence 0.60. {DISCLAIMER}"


def test_a_refused_question_takes_no_token_and_closes_the_engine() -> None:
    engine = Engine("Take 500 mg.")
    events = list(GUARDRAILS.guard("How much ibuprofen can I give my 3-year-old?", engine))
    assert [type(event) for event in events] == [Refused, Finished]
    assert (engine.taken, engine.closed) == (0, True)
    assert finished(events).confidence is None
    assert finished(events).text == DISCLAIMER
    assert "pharmacist" in finished(events).answer


def test_an_emergency_comes_before_the_answer() -> None:
    events = answer("Crushing chest pain and cannot breathe", "Chest pain has ", "many causes.")
    assert isinstance(events[0], Notice)
    assert events[0].kind == "emergency"
    assert "112 or 911" in events[0].text
    assert events[1] == Sentence("Chest pain has many causes.")


def test_self_harm_has_its_own_message() -> None:
    first = answer("I want to kill myself", "I am sorry.")[0]
    assert isinstance(first, Notice)
    assert first.kind == "self_harm"
    assert "alone" in first.text


def test_an_emergency_is_shown_even_when_the_question_is_then_refused() -> None:
    events = answer("My chest hurts and I can't breathe, how much aspirin should I take?")
    assert [getattr(event, "kind", None) for event in events[:2]] == ["emergency", "dosing"]
    assert isinstance(events[1], Refused)


def test_a_dose_in_the_answer_ends_it_and_stops_the_engine() -> None:
    engine = Engine("It is a painkiller. ", "Take 500 mg ", "twice a day. ", "Then", " rest.", "!")
    events = list(GUARDRAILS.guard("What is paracetamol?", engine))
    assert [type(event) for event in events] == [Sentence, Refused, Finished]
    assert engine.closed
    assert engine.taken == 4
    shown = finished(events).answer
    assert shown.startswith("It is a painkiller. \n\n")
    assert "500" not in shown
    (verdict,) = finished(events).verdicts
    assert (verdict.side, verdict.kind, verdict.action) == ("answer", "dosing", "refuse")
    assert "500 mg" in verdict.excerpt


def test_an_overconfident_sentence_is_replaced_and_the_rest_goes_on() -> None:
    events = answer(
        HARMLESS, "It is common.\n- This will definitely ", "cure you.\n", "See a doctor."
    )
    assert events[0] == Sentence("It is common.\n")
    replaced = events[1]
    assert isinstance(replaced, Replaced)
    assert replaced.reason == "overconfident"
    assert replaced.text.endswith(".\n")
    assert "cure" not in replaced.text
    assert events[2] == Sentence("See a doctor.")
    assert finished(events).answer == "It is common.\n" + replaced.text + "See a doctor."


def test_a_sentence_is_judged_with_the_one_before() -> None:
    alone = answer(HARMLESS, "Do so every six hours.")
    assert not any(isinstance(event, Refused) for event in alone)
    together = answer(HARMLESS, "There are two tablets of paracetamol. ", "Do so every six hours.")
    assert isinstance(together[1], Refused)


def test_a_withheld_sentence_still_counts_as_context() -> None:
    events = answer(
        HARMLESS, "Paracetamol tablets always work for everyone. ", "Do so every six hours."
    )
    assert isinstance(events[0], Replaced)
    assert isinstance(events[1], Refused)


def test_nothing_is_released_before_its_sentence_has_ended() -> None:
    engine = Engine("You ", "definitely ", "have ", "cancer", ". ", "Or", " not.")
    events = GUARDRAILS.guard(HARMLESS, engine)
    assert isinstance(next(events), Replaced)
    assert engine.taken == 6


def test_each_kind_of_notice_comes_once() -> None:
    events = answer("I think I'm having a stroke", "This is a medical emergency. ", "Call 112 now.")
    assert [e.kind for e in events if isinstance(e, Notice)] == ["emergency"]
    assert len(finished(events).verdicts) == 3


@pytest.mark.parametrize(
    ("probability", "kind"),
    [(0.2, "low_confidence"), (0.3, None), (0.6, None), (0.95, None), (0.99, "high_confidence")],
)
def test_confidence_outside_the_thresholds_is_remarked(
    probability: float, kind: str | None
) -> None:
    # One token, so that its probability is the confidence exactly.
    guardrails = Guardrails(Thresholds(0.3 - 1e-9, 0.95 + 1e-9))
    events = list(guardrails.guard(HARMLESS, Engine("Slow.", probability=probability)))
    assert [e.kind for e in events if isinstance(e, Notice)] == ([kind] if kind else [])


def test_thresholds_can_be_set() -> None:
    guardrails = Guardrails(Thresholds(low=0.7, high=0.8))
    events = list(guardrails.guard(HARMLESS, Engine("Slow.", probability=0.6)))
    assert isinstance(events[1], Notice)
    assert "0.60" in events[1].text


def test_distress_before_a_question_does_not_hide_what_it_asks() -> None:
    assert isinstance(answer("I can't sleep, how much melatonin can I take?")[0], Refused)


def test_an_empty_answer_finishes() -> None:
    assert answer(HARMLESS) == [Finished("", None, (), DISCLAIMER)]


def test_an_abandoned_answer_closes_the_engine() -> None:
    engine = Engine("One. ", "Two. ", "Three. ", "Four.")
    events = GUARDRAILS.guard(HARMLESS, engine)
    next(events)
    assert not engine.closed
    events.close()  # type: ignore[attr-defined]
    assert engine.closed


def test_an_engine_that_fails_is_closed_and_its_error_passes_through() -> None:
    class Failing(Engine):
        def __next__(self) -> Token:
            if self.taken == 2:
                raise MemoryError
            return super().__next__()

    engine = Failing("One. ", "Two. ", "Three.")
    released: list[GuardEvent] = []
    with pytest.raises(MemoryError):
        released.extend(GUARDRAILS.guard(HARMLESS, engine))
    assert engine.closed


def test_a_plain_iterator_will_do() -> None:
    events = list(GUARDRAILS.guard(HARMLESS, iter([Token("Slow.", 0.5)])))
    assert events[0] == Sentence("Slow.")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_the_events_do_not_depend_on_the_size_of_tokens(one: int, other: int) -> None:
    text = (
        "It is common, e.g. in runners. You definitely have cancer.\nSee Dr. Lee.\n"
        "- rest\n- This could be a heart attack. Take 500 mg twice a day. The end."
    )

    def events(size: int) -> list[GuardEvent]:
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        return [
            Finished(e.answer, None, e.verdicts, "") if isinstance(e, Finished) else e
            for e in answer(HARMLESS, *pieces)
        ]

    assert events(one) == events(other)
    kinds = [type(event) for event in events(one)]
    assert kinds.count(Replaced) == 1
    assert kinds.count(Notice) == 1
    assert kinds[-2:] == [Refused, Finished]


def test_every_answer_as_plain_text_carries_the_disclaimer() -> None:
    for question, pieces in [
        (HARMLESS, ["It is slow. ", "That is all."]),
        ("How much ibuprofen for a baby?", []),
        ("I think I'm having a stroke", ["Take 500 mg twice a day."]),
    ]:
        text = "".join(map(PlainText().add, GUARDRAILS.guard(question, Engine(*pieces))))
        assert text.endswith(DISCLAIMER)
        assert "\n\n\n" not in text


def test_plain_text_keeps_the_answer_together_and_all_else_apart() -> None:
    events: list[GuardEvent] = [
        Notice("emergency", "Call."),
        Sentence("One. "),
        Sentence("Two."),
        Refused("dosing", "answer", "No."),
        Finished("", None, (), "Mind."),
    ]
    assert "".join(map(PlainText().add, events)) == "Call.\n\nOne. Two.\n\nNo.\n\nMind."


def test_no_message_claims_conformity_or_names_one_country_only() -> None:
    questions = ["I want to die", "crushing chest pain", "how much aspirin can I take", "swear it"]
    for question in questions:
        for finding in GUARDRAILS.check_question(question):
            assert "HIPAA" not in finding.message
            assert ("911" in finding.message) == ("112" in finding.message)
