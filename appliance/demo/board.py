"""What a person watches: a title for each step, and a bar with time left for each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from appliance.demo.processes import Line


class Board:
    """The terminal of a demonstration."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None

    def title(self, text: str) -> None:
        """A new step begins."""
        self.console.print(f"\n[bold]{text}[/bold]")

    def say(self, text: str) -> None:
        """One line about the present step."""
        self.console.print(f"  {text}", highlight=False)

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A step that cannot say how far it is, with the time that it has taken."""
        text_column = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), text_column, TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            progress.add_task(text, total=None)
            yield

    @contextmanager
    def bars(self, title: str) -> Iterator[None]:
        """A step with one bar for each process."""
        self.title(title)
        columns = (
            TextColumn("  {task.fields[name]:<16}", markup=False),
            TextColumn("{task.fields[phase]:<11}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=self.console) as progress:
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    @contextmanager
    def row(self, name: str) -> Iterator[Callable[[Line], None]]:
        """One process's bar, for the length of a block; gives the sink of its JSON lines."""
        assert self._progress is not None
        progress = self._progress
        task = progress.add_task(name, total=None, name=name, phase="starting", rate="")
        yield lambda line: _show(progress, task, name, line)
        progress.update(task, phase="done")
        progress.stop_task(task)


def _show(progress: Progress, task: TaskID, name: str, line: Line) -> None:
    match line.get("event"):
        case "Phase" if line["name"] != "done":
            # Fields given to reset() would replace them all, the row's name too.
            progress.reset(task)
            progress.update(task, phase=line["name"], rate="")
        case "TrainStep":
            rate = (
                f"{line['step']}/{line['of']}  loss {line['loss']:.3f}  "
                f"{line['tokens_per_second']:.0f} tokens/s"
            )
            progress.update(task, completed=line["step"], total=line["of"], rate=rate)
        case "EvalStep":
            subject = line.get("subject", "evaluating")
            rate = f"{line['done']}/{line['of']}  loss {line['loss']:.3f}"
            progress.update(
                task, phase=subject, completed=line["done"], total=line["of"], rate=rate
            )
        case "Transfer":
            rate = f"{line['direction']} {line['done'] / 1e6:.1f} MB"
            progress.update(task, completed=line["done"], total=line["of"], rate=rate)
        case "Note":
            said = f"  {name}: {line['text']}"
            progress.console.print(said, highlight=False, markup=False)
