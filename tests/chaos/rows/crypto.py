"""Published vectors, another implementation, and every byte of an envelope altered."""

from __future__ import annotations

from tests.chaos.crypto import everything
from tests.chaos.rows import Options, Result

WHAT = "crypto: published vectors; every byte of a small envelope flipped, every truncation"


def run(options: Options) -> Result:
    """The same in every run: it takes seconds."""
    options.say("vectors, documents, envelope")
    try:
        return Result(dict(everything()))
    except AssertionError as error:
        return Result({}, failures=[f"accepted or refused wrongly: {error!r}"])
