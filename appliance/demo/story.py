"""The demonstration, step by step; each step is skipped when its result is there already."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence

from appliance.demo import hpo
from appliance.demo.board import Board
from appliance.demo.consortium import Consortium
from appliance.demo.measure import result_path
from appliance.demo.processes import DemoError, Line, in_parallel, run_json, stop_left_over
from appliance.demo.settings import (
    ATTACKER,
    BASE_MODEL,
    HOSPITALS,
    DemoPaths,
    DemoSettings,
    program,
    step_result,
)
from federation.canonical import canonical_json
from federation.files import write_atomically

_SETTINGS = "settings.json"


def share_cores(n: int) -> tuple[int, int]:
    """How many of ``n`` processes run at once, and with how many compute threads each."""
    cores = os.cpu_count() or 1
    at_once = min(n, cores)
    return at_once, max(1, cores // at_once)


class Story:
    """One demonstration in ``paths``; ``play`` may be called again after any interruption."""

    def __init__(self, paths: DemoPaths, settings: DemoSettings, board: Board) -> None:
        self.at_once, threads = share_cores(len(HOSPITALS))
        self.paths = paths
        self.settings = settings
        self.board = board
        self.consortium = Consortium(paths, settings, threads)
        self.threads = threads

    def play(self) -> None:
        """From whatever is there to the measured results; ``finish`` says that all is done."""
        self._pull_model()
        self._begin_or_continue()
        self._prepare_data()
        self.consortium.init()
        with self.consortium.serving(self.board.say):
            self._enrol()
            for number in range(1, self.settings.rounds + 1):
                self._round(number)
            self._fetch_published()
        self._train_local()
        self._measure()
        self._ask()

    def finish(self) -> None:
        """The report is written: the next demonstration is a new one."""
        write_atomically(self.paths.run / "finished", b"")

    def _begin_or_continue(self) -> None:
        kept = self.paths.run / _SETTINGS
        wanted = self.settings.to_json()
        if (self.paths.run / "finished").exists():
            self.board.say("The last demonstration is finished: starting a new one.")
        elif kept.exists() and kept.read_bytes() == wanted:
            self.board.say("Continuing the demonstration that was interrupted.")
            return
        elif kept.exists():
            self.board.say("The interrupted demonstration had other settings: starting clean.")
        stop_left_over(self.paths.run / "coordinator.pid", self.paths.coordinator)
        # First what says that this can be continued: a kill amidst the removal must not.
        kept.unlink(missing_ok=True)
        shutil.rmtree(self.paths.run, ignore_errors=True)
        write_atomically(kept, wanted)

    def _pull_model(self) -> None:
        self.board.title("Base model")
        command = [program("appliance"), "models", "pull", BASE_MODEL, "--json"]
        with self.board.waiting("downloading, verifying and converting, once: about a minute"):
            pulled = run_json(command, self.consortium.environment)
        size = f"{pulled['n_bytes'] / 1e6:.0f} MB"
        self.board.say(f"{BASE_MODEL}: {size}, digest {pulled['sha256'][:16]}...")

    def _prepare_data(self) -> None:
        result = self.paths.results / "data.json"
        if result.exists():
            return
        self.board.title("Data: the Human Phenotype Ontology, one organ system a hospital")
        report = hpo.build(self.paths.data)
        files = [self.paths.data / hospital / "records.jsonl" for hospital in HOSPITALS]
        files += [self.paths.data / "test" / f"{hospital}.jsonl" for hospital in HOSPITALS]
        found = {"overlap": hpo.overlap(files), "source": dataclasses.asdict(report)}
        write_atomically(result, canonical_json(found))

    def _enrol(self) -> None:
        self.board.title("Four hospitals enrol: own keys, an invite each, approved by the admin")
        children = self.consortium.children
        with self.board.waiting("importing each hospital's records"):
            in_parallel(HOSPITALS, self._import, at_once=self.at_once, children=children)
        for hospital in HOSPITALS:
            enrolled = self._once("enrol", hospital, self.consortium.enrol)
            data = self._import(hospital)
            self.board.say(
                f"{hospital:<16} {enrolled['fingerprint']}, "
                f"{data['train']} training, {data['held_out']} held out"
            )

    def _import(self, hospital: str) -> Line:
        return self._once("import", hospital, self.consortium.import_data)

    def _once(self, step: str, hospital: str, work: Callable[[str], Line]) -> Line:
        """A short step, kept so that it is done once."""
        result = step_result(self.paths, step, hospital)
        if not result.exists():
            write_atomically(result, canonical_json(work(hospital)))
        line: Line = json.loads(result.read_bytes())
        return line

    def _hospitals(
        self, step: str, title: str, arguments: Sequence[str], where: Sequence[str] = HOSPITALS
    ) -> None:
        """Run one long ``appliance`` command for each hospital."""
        self._processes(
            step, title, lambda h: self.consortium.appliance_command(h, *arguments), where
        )

    def _processes(
        self,
        step: str,
        title: str,
        command_of: Callable[[str], Sequence[str]],
        where: Sequence[str] = HOSPITALS,
    ) -> None:
        """Run one long command for each hospital, each a process of its own, and keep its last
        line; hospitals that have theirs already are left out."""
        missing = [h for h in where if not step_result(self.paths, step, h).exists()]
        if not missing:
            return

        def run(hospital: str) -> Line:
            with self.board.row(hospital) as on_line:
                environment = self.consortium.environment
                line = self.consortium.children.stream(command_of(hospital), environment, on_line)
            write_atomically(step_result(self.paths, step, hospital), canonical_json(line))
            return line

        with self.board.bars(title):
            in_parallel(missing, run, at_once=self.at_once, children=self.consortium.children)

    def _round(self, number: int) -> None:
        current, state = self.consortium.round_state()
        if current < number:
            self.consortium.open_round()
        elif current > number or state == "published":
            return
        if state == "aborted":
            (self.paths.run / _SETTINGS).unlink()
            raise DemoError(
                f"Round {number} was aborted, perhaps because its deadline passed.",
                hint="Run `make demo` again: it starts clean.",
            )
        title = f"Round {number} of {self.settings.rounds}"
        if self.settings.attack != "none":
            title += f"; {ATTACKER} lies: {self.settings.attack}"
        train = self.consortium.training_command
        self._processes(f"round-{number}", title, lambda h: train(h, number))
        self.consortium.await_published(number)

    def _fetch_published(self) -> None:
        for number in range(1, self.settings.rounds):
            sync = ("sync", "--round", str(number), "--no-evaluate")
            self._hospitals(f"sync-{number}", f"Record of round {number}", sync, HOSPITALS[:1])
        last = str(self.settings.rounds)
        self._hospitals("final", "The final global adapter", ("sync", "--round", last))

    def _train_local(self) -> None:
        s = self.settings
        arguments = (
            *("train", "--local", "--steps", str(s.rounds * s.steps)),
            *("--batch-size", str(s.batch_size), "--learning-rate", str(s.learning_rate)),
            *("--schedule", s.local_schedule, "--eval-examples", str(s.eval_examples)),
            *("--max-length", str(s.max_length)),
        )
        title = "For comparison: each hospital alone, same steps, batch and learning rate"
        self._hospitals("local", title, arguments)

    def _measure(self) -> None:
        subjects = ("base", "federated", *HOSPITALS)
        missing = [s for s in subjects if not result_path(self.paths, s).exists()]
        if not missing:
            return
        at_once, threads = share_cores(len(missing))
        shares = {f"measurement {i + 1}": missing[i::at_once] for i in range(at_once)}
        fixed = (str(self.paths.root), str(self.paths.models / BASE_MODEL))
        numbers = (str(self.settings.test_items), str(threads))
        children = self.consortium.children

        def run(share: str) -> Line:
            module = (sys.executable, "-m", "appliance.demo.measure")
            with self.board.row(share) as on_line:
                command = [*module, *fixed, *numbers, *shares[share]]
                return children.stream(command, self.consortium.environment, on_line)

        with self.board.bars("Held-out losses on test items that no hospital was given"):
            in_parallel(list(shares), run, at_once=at_once, children=children)

    def _ask(self) -> None:
        result = self.paths.results / "answers.json"
        if result.exists():
            return
        self.board.title("One question, two adapters")

        def ask(choice: str) -> Line:
            arguments = ("ask", "--adapter", choice, "--max-tokens", "96", self.settings.question)
            return self.consortium.appliance(HOSPITALS[0], *arguments)

        children = self.consortium.children
        with self.board.waiting("the base model and the federated adapter answer"):
            answers = in_parallel(("base", "global"), ask, at_once=self.at_once, children=children)
        write_atomically(result, canonical_json(answers))
