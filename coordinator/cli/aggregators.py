"""``coordinator aggregators``: the parts an aggregator is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from federation.terminal import emit, json_option

if TYPE_CHECKING:
    from coordinator.aggregation import Combiner, Part


@click.command("aggregators")
@json_option
def command(as_json: bool) -> None:
    """List the ways to combine updates: what each needs and promises.

    `coordinator round open --aggregator` takes one of each kind, joined with +, for example
    agentic+multi-krum+stacked. Left out: examples, no robust rule, fedavg.
    """
    from coordinator.aggregation import KINDS, discover, kind

    found = discover()
    for _, word in KINDS:
        chosen = {name: part for name, part in found.items() if kind(part) == word}
        if as_json:
            for name, part in chosen.items():
                emit({"name": name, "kind": word, **_facts(part)}, "", as_json=True)
            continue
        lines = [f"{word}:"]
        for name, part in chosen.items():
            lines.append(f"  {name:17} {part.summary}")
            lines += [f"  {'':17} {line}" for line in _in_words(part)]
        print("\n".join(lines))


def _facts(part: Part) -> dict[str, Any]:
    from coordinator.aggregation import Combiner, Robust, Weighting

    match part:
        case Weighting():
            return {"summary": part.summary, "metrics": list(part.metrics)}
        case Robust():
            return {
                "summary": part.summary,
                "min_hospitals": part.min_hospitals,
                "one_vote": part.one_vote,
            }
        case Combiner():
            return {
                "summary": part.summary,
                "exact": part.exact,
                "linear": part.linear,
                "mixed_ranks": part.mixed_ranks,
                "keeps_factors": part.keeps_factors,
                "factors": _factors(part),
            }


def _factors(combiner: Combiner) -> list[str]:
    """What hospitals send in the first rounds, without repetition."""
    return list(dict.fromkeys(combiner.factors(turn) for turn in (1, 2)))


def _in_words(part: Part) -> list[str]:
    from coordinator.aggregation import Combiner, Robust, Weighting

    match part:
        case Weighting():
            return [f"Needs the metrics {', '.join(part.metrics)}."] if part.metrics else []
        case Robust():
            votes = " Every hospital has one vote: no other weighting." if part.one_vote else ""
            return [f"Needs {part.min_hospitals} updates, so as large a quorum.{votes}"]
        case Combiner():
            exact = {"yes": "exact", "up to rank": "exact up to the rank", "no": "not exact"}
            promises = [
                exact[part.exact],
                "linear" if part.linear else "not linear (no secure aggregation)",
                "any rank up to the federation's" if part.mixed_ranks else "one rank for all",
            ]
            return [f"Sends {', then '.join(_factors(part))}; {'; '.join(promises)}."]
