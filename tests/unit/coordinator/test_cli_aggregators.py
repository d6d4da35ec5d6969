"""``coordinator aggregators``: every plug-in, what it needs and promises, in words and JSON."""

from __future__ import annotations

import json

import pytest

from coordinator.aggregation import discover
from coordinator.cli import cli
from federation.terminal import run


def test_it_lists_every_part_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["aggregators", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows.keys() == discover().keys()
    assert rows["stacked"] == {
        "name": "stacked",
        "kind": "combiner",
        "summary": discover()["stacked"].summary,
        "exact": "up to rank",
        "linear": False,
        "mixed_ranks": True,
        "keeps_factors": False,
        "factors": ["AB"],
    }
    assert rows["alternating"]["factors"] == ["B", "A"]
    assert (rows["multi-krum"]["min_hospitals"], rows["multi-krum"]["kind"]) == (5, "robust")
    assert rows["geometric-median"]["one_vote"]
    assert rows["agentic"]["metrics"] == ["loss_after", "loss_variance"]


def test_it_says_so_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, ["aggregators"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in discover())
    for phrase in (
        "Needs 5 updates, so as large a quorum.",
        "Needs the metrics loss_after, loss_variance.",
        "Sends B, then A; exact; linear; one rank for all.",
        "any rank up to the federation's",
    ):
        assert phrase in said
