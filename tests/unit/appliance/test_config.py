"""Configuration: precedence, origins, and errors that name the field."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance import config
from appliance.config import load_config
from federation.errors import ConfigError


def test_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text('[engine]\nthreads = 2\nquantisation = "nf4"\n')
    loaded = load_config(path, {"FEDMED_ENGINE_THREADS": "3"})
    assert loaded.values.engine.threads == 3
    assert loaded.values.engine.quantisation == "nf4"
    rows = {name: (value, origin) for name, value, origin in loaded.rows()}
    assert rows["engine.threads"] == (3, "FEDMED_ENGINE_THREADS")
    assert rows["engine.quantisation"] == ("nf4", str(path))
    assert rows["safety.low_confidence"] == (0.3, "default")


def test_without_a_file_all_is_default(tmp_path: Path) -> None:
    loaded = load_config(tmp_path / "none.toml", {})
    assert {origin for _, _, origin in loaded.rows()} == {"default"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[engine]\nthread = 2", "engine.thread"),
        ("[engines]\nthreads = 2", "engines"),
        ("[engine]\nthreads = 0", "engine.threads"),
        ('engine = "fast"', "engine"),
        ("[engine", "appliance.toml"),
    ],
)
def test_a_wrong_file_is_refused_by_field(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=named):
        load_config(path, {})


def test_a_file_too_deep_for_the_parser_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text("deep = " + "[" * 5000)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path, {})


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FEDMED_SAFETY_LOW_CONFIDENCE"):
        load_config(tmp_path / "none", {"FEDMED_SAFETY_LOW_CONFIDENCE": "high"})


def test_thresholds_that_cross_are_refused_when_read(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text("[safety]\nlow_confidence = 0.8\nhigh_confidence = 0.2\n")
    with pytest.raises(ConfigError, match=r"safety: .*low_confidence \(0.8\) is above"):
        load_config(path, {})


def test_equal_thresholds_are_allowed(tmp_path: Path) -> None:
    environment = {"FEDMED_SAFETY_LOW_CONFIDENCE": "0.5", "FEDMED_SAFETY_HIGH_CONFIDENCE": "0.5"}
    assert load_config(tmp_path / "none", environment).values.safety.low_confidence == 0.5


def test_the_variable_that_the_module_names_is_read(tmp_path: Path) -> None:
    assert config.__doc__ is not None
    (named,) = re.findall(r"``(FEDMED_\w+)``", config.__doc__)
    assert load_config(tmp_path / "none", {named: "nf4"}).values.engine.quantisation == "nf4"
