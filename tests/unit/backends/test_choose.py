"""Which engine is chosen, and why."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import backends
from backends.base import LoadedModel, Probe, Quantisation
from federation.errors import BackendError, ConfigError


@dataclass
class Machine:
    """An engine as it would answer on another machine."""

    name: str
    device: str
    available: bool = True
    only_by_name: bool = False

    def probe(self) -> Probe:
        reason = f"{self.name} on {self.device or 'nothing'}."
        return Probe(
            self.name,
            self.available,
            reason,
            device=self.device,
            only_by_name=self.only_by_name,
        )

    def load(
        self, base: Path, *, quantisation: Quantisation = "none", threads: int | None = None
    ) -> LoadedModel:
        raise NotImplementedError


def on(monkeypatch: pytest.MonkeyPatch, *machines: Machine) -> None:
    monkeypatch.setattr(backends, "discover", lambda: {m.name: m for m in machines})


@pytest.mark.parametrize(
    ("torch_on", "mlx_on", "chosen"),
    [
        ("mps", "metal", "mlx"),
        ("cuda", "cpu", "cuda"),
        ("cpu", "cpu", "cuda"),
        ("mps", None, "cuda"),
        (None, "cpu", "mlx"),
    ],
)
def test_the_best_device_wins(
    monkeypatch: pytest.MonkeyPatch, torch_on: str | None, mlx_on: str | None, chosen: str
) -> None:
    on(
        monkeypatch,
        Machine("cuda", torch_on or "", available=torch_on is not None),
        Machine("mlx", mlx_on or "", available=mlx_on is not None),
    )
    backend, why = backends.choose()
    assert backend.name == chosen
    assert why.startswith(f"{chosen}, the best of this machine: {chosen} on ")


def test_a_name_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, Machine("cuda", "cpu"), Machine("mlx", "metal"))
    backend, why = backends.choose("cuda")
    assert backend.name == "cuda"
    assert why == "cuda, as asked for: cuda on cpu."


def test_an_engine_for_tests_serves_only_who_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, Machine("mlx", "cpu", only_by_name=True))
    with pytest.raises(BackendError, match="mlx on cpu"):
        backends.choose()
    assert backends.choose("mlx")[0].name == "mlx"


def test_an_unknown_name_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="'tpu'") as caught:
        backends.choose("tpu")
    assert caught.value.hint == "Known: cuda, mlx."


def test_a_known_engine_that_cannot_run_says_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, Machine("cuda", "cpu"), Machine("mlx", "", available=False))
    with pytest.raises(BackendError, match="mlx on nothing"):
        backends.choose("mlx")


def test_no_engine_at_all_names_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, Machine("cuda", "", available=False), Machine("mlx", "", available=False))
    with pytest.raises(BackendError, match=r"cuda: .*mlx: ") as caught:
        backends.choose()
    assert "pip install" in caught.value.hint


def test_every_folder_is_found() -> None:
    assert list(backends.discover()) == ["cuda", "mlx"]


def test_choosing_imports_no_engine() -> None:
    code = (
        "import sys, backends; backends.choose();"
        "print([m for m in ('torch', 'mlx', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Where a GPU may be, torch alone has to be asked for it.
    assert done.stdout.strip() in {"[]", "['torch']"}
    if backends.discover()["cuda"].probe().device == "cpu":
        assert done.stdout.strip() == "[]"
