"""Some mutated inputs of each parser; the long form is guided by coverage."""

from __future__ import annotations

import random

import pytest

from tests.chaos.parsing import PARSERS, examine, mutate


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_lets_only_its_errors_out(name: str) -> None:
    parser = PARSERS[name]
    assert examine(parser, parser.valid)
    chance = random.Random(name)
    accepted = sum(examine(parser, mutate(parser.valid, chance)) for _ in range(1000))
    assert accepted < 500
