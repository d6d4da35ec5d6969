"""The demonstration's report: one HTML file that needs no network and no script."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from importlib.metadata import version

from appliance.demo import plots
from appliance.demo.results import (
    Results,
    Row,
    attack_line,
    confidence,
    parts,
    perplexity,
    source_line,
)

_STYLE = """
:root { color-scheme: light; --ink: #1d2733; --soft: #5b6876; --line: #d9dfe5; --mark: #2a6f97 }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); max-width: 52rem;
       margin: 2.5rem auto; padding: 0 1.25rem; background: #fff }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.lead, caption, .note { color: var(--soft) } .note { font-size: .9rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
        font-size: .92rem }
caption { text-align: left; padding-bottom: .4rem; font-size: .9rem }
th, td { padding: .35rem .5rem; text-align: right; border-bottom: 1px solid var(--line) }
th:first-child, td:first-child { text-align: left }
tr.total td { font-weight: 600; border-top: 2px solid var(--ink) }
blockquote { margin: .6rem 0; padding: .6rem 1rem; border-left: 3px solid var(--mark);
             background: #f5f8fa; white-space: pre-wrap }
svg { width: 100%; height: auto }
.figures { display: flex; gap: 1rem; flex-wrap: wrap; margin: 1.4rem 0 }
.figures div { flex: 1 1 9rem; border: 1px solid var(--line); border-radius: .5rem;
               padding: .8rem 1rem }
.figures b { display: block; font-size: 1.3rem; white-space: nowrap }
"""


def _cells(values: Iterable[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{value}</{tag}>" for value in values)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], total: bool) -> str:
    body = "".join(
        f"<tr{' class=total' if total and row is rows[-1] else ''}>{_cells(row)}</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{caption}</caption><thead><tr>{_cells(head, 'th')}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _loss(value: float) -> str:
    return f"{value:.3f} <small>({perplexity(value):.1f})</small>"


def _loss_row(row: Row) -> list[str]:
    return [
        html.escape(row.name),
        str(row.n_items),
        _loss(row.base),
        _loss(row.local),
        _loss(row.federated),
        f"{row.gain.mean:+.3f} ± {row.gain.standard_error:.3f}",
    ]


_LOSS_HEAD = ("hospital", "items", "base", "local only", "federated", "gain ± s.e.")


def _tables(results: Results) -> str:
    own = _table(
        "On the hospital's own specialty: mean loss in nats a token (perplexity)",
        _LOSS_HEAD,
        [_loss_row(row) for row in results.own],
        total=False,
    )
    pooled = _table(
        "On the pooled test items of all four; last row: the average local adapter",
        _LOSS_HEAD,
        [_loss_row(row) for row in (*results.pooled, results.overall)],
        total=True,
    )
    return own + "<br>" + pooled


def _traffic(results: Results) -> str:
    rows = [
        [
            hospital,
            f"{t.sent / 1e6:.2f} MB",
            f"{t.received / 1e6:.2f} MB",
            f"{t.sent / results.settings.rounds / results.base_bytes:.2%}",
        ]
        for hospital, t in results.traffic.items()
    ]
    head = ("hospital", "sent", "received", "sent a round, of the base model's size")
    size = f"{results.base_bytes / 1e6:.0f} MB"
    caption = f"Bodies of all requests and answers; the base model has {size}"
    return _table(caption, head, rows, total=False)


def _rounds(results: Results) -> str:
    rows = [
        [f"round {p.round}", html.escape(p.hospital), p.shown_weight, html.escape(p.why)]
        for p in parts(results)
    ]
    return _table("From the signed round records", ("", "hospital", "weight", "why"), rows, False)


def _answers(results: Results) -> str:
    names = {"base": "Base model", "global": "Federated adapter"}
    parts = [f"<p><em>{html.escape(results.settings.question)}</em></p>"]
    for choice, answer in results.answers.items():
        text = html.escape(str(answer["answer"]))
        parts.append(f"<h3>{names[choice]} <small>(confidence {confidence(answer)})</small></h3>")
        parts.append(f"<blockquote>{text}</blockquote>")
        parts.append(f'<p class="note">{html.escape(str(answer["disclaimer"]))}</p>')
    return "".join(parts)


def _figures(results: Results) -> str:
    overall = results.overall
    sent = max(t.sent for t in results.traffic.values()) / results.settings.rounds
    figures = (
        (f"{overall.federated:.3f}", f"federated loss; base {overall.base:.3f}"),
        (f"{overall.gain.mean:+.3f} ± {overall.gain.standard_error:.3f}", "better than local only"),
        (f"{sent / results.base_bytes:.2%}", "of the base model's size sent a round"),
        (str(results.overlap), "records shared between hospitals or with the test"),
    )
    return "".join(f"<div><b>{value}</b>{label}</div>" for value, label in figures)


def render(results: Results) -> str:
    """The whole page."""
    s = results.settings
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>FedMed demonstration</title>
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>
<h1>Four hospitals, one assistant</h1>
<p class="lead">{s.rounds} rounds of {s.steps} steps, aggregated by {s.aggregator}; each hospital a
process of its own with its own keys and data. FedMed {version("fedmed")}.</p>
<div class="figures">{_figures(results)}</div>
<h2>Held-out loss</h2>{_tables(results)}
<p class="note">Test items were given to no hospital. Local only has the same number of steps,
batch and learning rate, with the schedule that suits it best ({s.local_schedule}). Gain is local
only minus federated; its standard error is of the paired differences, items being the sampling
unit. Only a demonstration can pool held-out data: it made the data itself. The product never
does.</p>
<h2>Convergence</h2>{plots.convergence(results)}
<p class="note">Each hospital's own held-out examples. Solid: the global adapter. Dotted: what the
hospital's own training made of it before aggregation.</p>
<h2>Who contributed how much</h2>{plots.weights(results)}{_rounds(results)}
<p>{html.escape(attack_line(results))}</p>
<h2>What crossed the network</h2>{_traffic(results)}
<h2>One question, two adapters</h2>{_answers(results)}
<h2>Source of the data</h2><p class="note">{html.escape(source_line(results))}</p>
</body></html>
"""
