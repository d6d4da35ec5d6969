"""Who this hospital is and how its coordinator and the round stand, or how to get that far."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.reactive import reactive

from appliance.state import ApplianceStatus
from federation.errors import FedMedError
from tui.activity import Reading
from tui.formats import size
from tui.text import plain
from tui.widgets.rows import Cell, Rows


class Federation(VerticalScroll):
    """The first panel of the overview."""

    DEFAULT_CSS = """
    Federation { height: auto; max-height: 50%; }
    Federation Rows { grid-columns: 12 1fr; }
    """

    reading: reactive[Reading] = reactive(None)

    def compose(self) -> ComposeResult:
        """Label and value."""
        yield Rows()

    def on_mount(self) -> None:
        """Name the panel."""
        self.border_title = "Federation"
        self.add_class("panel")

    def watch_reading(self, reading: Reading) -> None:
        """Show the status, or what is wrong and what to do."""
        if isinstance(reading, ApplianceStatus):
            rows = _status_rows(reading)
        elif reading is None:
            rows = [("Status", plain("being read …", "$foreground-muted"))]
        else:
            rows = _error_rows(reading)
        self.query_one(Rows).rows = rows


def _status_rows(status: ApplianceStatus) -> list[tuple[Cell, Cell]]:
    answers = status.round is not None
    rows: list[tuple[Cell, Cell]] = [
        ("Hospital", Content.assemble((f"{status.hospital}", "bold"), f" in {status.federation}")),
        ("Fingerprint", status.fingerprint),
        (
            "Coordinator",
            Content.assemble(
                plain(f"{status.url} "),
                plain(status.coordinator, "$text-success" if answers else "$text-error"),
            ),
        ),
        ("Round", _round(status)),
        (
            "Traffic",
            f"{size(status.bytes_sent)} sent, {size(status.bytes_received)} received",
        ),
    ]
    if status.quarantine:
        rows.append(("Quarantine", plain(status.quarantine, "$text-warning")))
    if counted := [done for done in status.rounds if done.why]:
        rows.append((f"In round {counted[-1].round}", plain(counted[-1].why)))
    if status.adoption:
        rows.append(("In use", plain(f"{status.adoption.choice}: {status.adoption.reason}")))
    return rows


def _round(status: ApplianceStatus) -> Cell:
    if status.round is None:
        return plain("not known while the coordinator does not answer", "$foreground-muted")
    if status.round == 0:
        return "none yet: the coordinator opens the first one"
    mine = "delivered from here" if status.delivered else "not delivered from here"
    return Content.assemble((f"{status.round} {status.round_state}", "bold"), f", {mine}")


def _error_rows(error: FedMedError) -> list[tuple[Cell, Cell]]:
    return [
        ("Not ready", plain(str(error))),
        ("Next step", plain(error.hint, "$text-warning")),
        ("Meanwhile", "Train and Chat work on this machine alone, without a federation."),
    ]
