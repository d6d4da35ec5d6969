"""The demonstration's results in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table

from appliance.demo.results import (
    Results,
    Row,
    attack_line,
    confidence,
    parts,
    perplexity,
    source_line,
)


def _loss(value: float) -> str:
    return f"{value:.3f} ({perplexity(value):.1f})"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0)
    table.add_column("hospital", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _losses(title: str, rows: tuple[Row, ...], total: Row | None = None) -> Table:
    table = _table(title, "base", "local only", "federated", "gain ± s.e.")
    for row in (*rows, *((total,) if total else ())):
        if row is total:
            table.add_section()
        table.add_row(
            row.name,
            _loss(row.base),
            _loss(row.local),
            _loss(row.federated),
            f"{row.gain.mean:+.3f} ± {row.gain.standard_error:.3f}",
        )
    return table


def _traffic(results: Results) -> Table:
    table = _table("Bytes over the network", "sent", "received", "sent a round, of the base model")
    for hospital, t in results.traffic.items():
        share = t.sent / results.settings.rounds / results.base_bytes
        table.add_row(
            hospital, f"{t.sent / 1e6:.2f} MB", f"{t.received / 1e6:.2f} MB", f"{share:.2%}"
        )
    return table


def _rounds(results: Results) -> Table:
    table = Table(
        title="Who counted how much, from the signed round records",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("round", justify="right")
    table.add_column("hospital", no_wrap=True)
    table.add_column("weight", justify="right")
    table.add_column("why")
    for row in parts(results):
        table.add_row(str(row.round), row.hospital, row.shown_weight, row.why)
    return table


def _answers(results: Results) -> list[RenderableType]:
    names = {"base": "base model", "global": "federated adapter"}
    return [
        Panel(
            f"{answer['answer']}\n\n[dim]{answer['disclaimer']}[/dim]",
            title=f"{names[choice]}, confidence {confidence(answer)}",
            title_align="left",
        )
        for choice, answer in results.answers.items()
    ]


def show(results: Results, console: Console) -> None:
    """Print every table. Losses are means in nats a token, perplexity in brackets."""
    console.print()
    own = (
        f"Held-out loss (perplexity) on {results.own[0].n_items} items of the hospital's specialty"
    )
    console.print(_losses(own, results.own))
    pooled = f"The same on all {results.overall.n_items} items (only a demonstration can pool them)"
    console.print(_losses(pooled, results.pooled, results.overall))
    gain = results.overall.gain_over_base
    console.print(
        "gain: local only minus federated, paired by item, with its standard error. Over base: "
        f"{gain.mean:+.3f} ± {gain.standard_error:.3f}.",
        highlight=False,
    )
    console.print(f"Records shared between hospitals, or with the test items: {results.overlap}\n")
    console.print(_rounds(results))
    if attacked := attack_line(results):
        console.print(attacked, highlight=False)
    console.print(_traffic(results))
    console.print(f"\nData: {source_line(results)}", highlight=False)
    console.print(f"\n[bold]{results.settings.question}[/bold]")
    for panel in _answers(results):
        console.print(panel)
