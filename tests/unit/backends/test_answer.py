"""Where an answer ends: stop strings over every way to cut a text into pieces."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from backends.answer import StopStrings

SHORT = st.text("ab.", max_size=12)


@given(st.lists(SHORT, max_size=8), st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3))
@example(["ab", "ab", "c"], ["abc"])
@example(["a", "ab"], ["aab", "ab"])
def test_text_ends_before_the_first_stop_string(pieces: list[str], strings: list[str]) -> None:
    stop = StopStrings(strings)
    shown = ""
    for piece in pieces:
        shown += stop.push(piece)
        if stop.met:
            break
    whole = "".join(pieces)
    places = [whole.find(string) for string in strings if string in whole]
    assert stop.met == bool(places)
    if not places:
        shown += stop.flush()
    # A longer string that begins earlier may end later than the one that was met first.
    assert whole.startswith(shown)
    assert len(shown) >= min(places, default=len(whole))
    assert not any(string in shown for string in strings)


def test_nothing_is_held_back_that_cannot_become_a_stop_string() -> None:
    stop = StopStrings(["\n\nUser:"])
    assert [stop.push(piece) for piece in ("A cold.", "\n", "\nUs", "ual", "\n")] == [
        "A cold.",
        "",
        "",
        "\n\nUsual",
        "",
    ]
    assert stop.flush() == "\n"
