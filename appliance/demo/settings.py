"""What a demonstration runs, and where: fixed at its start and compared when it is continued."""

from __future__ import annotations

import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from appliance.demo import hpo
from federation.canonical import Message

HOSPITALS = tuple(sorted(hpo.HOSPITALS))
BASE_MODEL = "smollm2-135m-instruct"
ATTACKER = HOSPITALS[-1]
"""Who lies, where one does."""

Attack = Literal["none", "sign-flip", "scaling", "noise"]


class DemoSettings(Message):
    """The numbers of a run; a run with others starts clean."""

    rounds: int = Field(3, ge=1, le=50)
    steps: int = Field(12, ge=1, le=10_000)
    aggregator: str = "geometric-median+stacked"
    attack: Attack = "none"
    learning_rate: float = Field(2e-3, gt=0)
    schedule: str = "constant"
    local_schedule: str = "constant"
    batch_size: int = Field(8, gt=0)
    eval_examples: int = Field(20, gt=0, description="held-out examples of a hospital's own curve")
    max_length: int = Field(256, ge=16, description="tokens; a few long definitions are cut")
    question: str = 'What does the clinical finding "Bradycardia" mean?'

    @property
    def test_items(self) -> int:
        """Test items of each hospital: 200 in all, half of that in a short trial run."""
        return 50 if self.rounds * self.steps >= 24 else 25


@dataclass(frozen=True)
class DemoPaths:
    """The folder of one demonstration; ``models`` outlives a clean start."""

    root: Path

    @property
    def models(self) -> Path:
        """Base models, shared by the four hospitals of this machine."""
        return self.root / "models"

    @property
    def run(self) -> Path:
        """Everything that a clean start removes."""
        return self.root / "run"

    @property
    def data(self) -> Path:
        """The question set: a folder for each hospital, and the test items that none gets."""
        return self.run / "data"

    @property
    def coordinator(self) -> Path:
        """The coordinator's home."""
        return self.run / "coordinator"

    @property
    def results(self) -> Path:
        """Measured losses and answers, as JSON."""
        return self.run / "results"

    @property
    def report(self) -> Path:
        """The report, one self-contained HTML file."""
        return self.run / "report.html"

    def hospital(self, name: str) -> Path:
        """One hospital's home."""
        return self.run / "hospitals" / name

    def environment(self, threads: int) -> dict[str, str]:
        """The environment of every process: shared models, no hub, so many compute threads."""
        return {
            **os.environ,
            "FEDMED_MODELS": str(self.models),
            "FEDMED_ENGINE_THREADS": str(threads),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }


def program(name: str) -> str:
    """The path of one of this installation's commands."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def step_result(paths: DemoPaths, step: str, hospital: str) -> Path:
    """Where the last line of a hospital's command is kept."""
    return paths.results / f"{step}-{hospital}.json"
