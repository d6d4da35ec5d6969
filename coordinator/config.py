"""The coordinator's configuration: each value declared once, unknown keys refused.

Precedence: flag > environment > file > default. The environment variable of ``[round] rank`` is
``COORDINATOR_ROUND_RANK``; lists are written with commas there.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from federation.errors import ConfigError, InputError
from federation.messages import (
    MAX_NORM,
    Anomalies,
    Codec,
    Extensions,
    Metric,
    Minutes,
    Name,
    Override,
    ReviewMinutes,
)
from federation.recipe import TrainingRecipe

_HINT = "`coordinator paths` shows where coordinator.toml is."


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FederationSection(_Section):
    """Which federation this is."""

    name: Name = Field(description="the federation's name, part of every signed document")


class ServerSection(_Section):
    """Where the coordinator listens and how hospitals reach it."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8443, ge=0, le=65535, description="port to listen on")
    url: str = Field("", description="address that hospitals use; empty: https://host:port")
    tls_cert: str = Field("", description="certificate chain, PEM; empty: the coordinator's own")
    tls_key: str = Field("", description="private key of tls_cert, PEM")

    @property
    def public_url(self) -> str:
        """The address that goes into invites."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.url or f"https://{host}:{self.port}"


class LimitsSection(_Section):
    """What one caller may take of the coordinator."""

    requests_per_second: float = Field(
        20.0, gt=0, le=10_000, description="requests of one hospital, on average"
    )
    request_burst: int = Field(
        200, ge=1, le=100_000, description="requests of one hospital in quick succession"
    )
    strangers_per_second: float = Field(
        5.0, gt=0, le=10_000, description="requests of one address that no hospital signed"
    )
    stranger_burst: int = Field(
        50, ge=1, le=100_000, description="such requests in quick succession"
    )
    connections: int = Field(1000, ge=1, le=10_000, description="connections at one time")
    disk_reserve_mib: int = Field(
        64, ge=0, le=1 << 20, description="MiB of disk that uploads leave free"
    )


class MetricsSection(_Section):
    """Where Prometheus fetches metrics, over plain HTTP and without a key."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on for metrics")
    port: int = Field(0, ge=0, le=65535, description="port to listen on for metrics; 0: none")


class ValidationSection(_Section):
    """What the coordinator measures updates on itself, where its host has an engine."""

    data: str = Field("", description="JSONL file of objects with question and answer; empty: none")
    base: str = Field("", description="folder of the rounds' base model")
    examples: int = Field(200, ge=1, le=10_000, description="how many of the file are used")
    max_length: int = Field(512, ge=16, le=32_768, description="tokens of an example at most")
    minutes: float = Field(
        30.0, gt=0, le=1440, description="how long the engine may take for one update"
    )


class RoundSection(TrainingRecipe):
    """What a round is opened with: the training recipe's fields and these."""

    aggregator: str | None = Field(
        None,
        description="how updates are combined, as agentic+multi-krum+stacked; "
        "`coordinator aggregators` lists the parts; unset: geometric-median+stacked where the "
        "quorum is three or more, else equal+stacked",
    )
    target_modules: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        min_length=1,
        description="linear layers that get an adapter, by the end of their path or a pattern",
    )
    rank: int = Field(8, gt=0, le=1024, description="rank of the adapter")
    alpha: float = Field(16.0, gt=0, description="the adapter's update is scaled by alpha / rank")
    quorum: int | None = Field(
        None,
        ge=1,
        description="verified updates a round needs; unset: all of up to two hospitals, "
        "else more than half",
    )
    deadline_minutes: int = Field(
        1440, gt=0, le=525_600, description="how long a round stays open at most"
    )
    grace_minutes: Minutes = Field(
        60,
        description="how long a silent hospital is waited for once quorum is met",
    )
    extension_minutes: Minutes = Field(60, description="what an automatic extension adds")
    extensions: Extensions = Field(
        0, description="how often the deadline moves by itself when quorum is not met then"
    )
    anomalies: Anomalies = Field(
        "quarantine",
        description="an update that looks unlike the others': quarantine leaves it out unless a "
        "person admits it (`coordinator review`), note uses it and says so",
    )
    review_minutes: ReviewMinutes = Field(
        60, description="how long a person has to admit such an update"
    )
    max_norm: float | None = Field(
        None,
        gt=0,
        le=MAX_NORM,
        description="largest L2 norm of an update; unset: ten times the parent adapter's",
    )
    metrics: Annotated[tuple[Metric, ...], BeforeValidator(_split)] = Field(
        get_args(Metric), description="what an update may report about itself"
    )
    codec: Codec = Field(
        "int8",
        description="how updates are sent: int8 in about a quarter of fp32's bytes, bf16 in a good "
        "third, fp32 exactly",
    )
    overrides: Annotated[tuple[Override, ...], BeforeValidator(_split)] = Field(
        (), description="what a hospital may change for itself: epochs, learning_rate"
    )

    def recipe(self) -> TrainingRecipe:
        """The part that hospitals train by."""
        return TrainingRecipe(**{name: getattr(self, name) for name in TrainingRecipe.model_fields})


class CoordinatorConfig(_Section):
    """The whole of coordinator.toml."""

    federation: FederationSection
    server: ServerSection = ServerSection()
    limits: LimitsSection = LimitsSection()
    metrics: MetricsSection = MetricsSection()
    validation: ValidationSection = ValidationSection()
    round: RoundSection = RoundSection()


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in CoordinatorConfig.model_fields.items():
        model = field.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        yield name, model


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"There is no coordinator at {path.parent}.",
            hint="`coordinator init --federation NAME` makes one; --home says where.",
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.", hint=_HINT) from error


def _overlay(values: dict[str, Any], key: str, value: object) -> None:
    """Set a value; the later of steps and epochs wins, since exactly one of them may be given."""
    if key == "epochs":
        values["steps"] = None
    elif key == "steps":
        values.pop("epochs", None)
    values[key] = value


def load_config(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    flags: Mapping[str, Mapping[str, object]] | None = None,
) -> CoordinatorConfig:
    """Read the configuration; ``flags`` are by section. Raises ConfigError, InputError for flags.

    A section's ``model_fields_set`` says which values a person gave.
    """
    merged = _read_file(path)
    for section, values in merged.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: {section} must be a table.", hint=_HINT)
    if "epochs" in merged.get("round", {}):
        merged["round"].setdefault("steps", None)
    origins: dict[str, str] = {}
    for section, model in _sections():
        given = (flags or {}).get(section, {})
        for key in model.model_fields:
            variable = f"COORDINATOR_{section}_{key}".upper()
            if variable in environment:
                _overlay(merged.setdefault(section, {}), key, environment[variable])
                origins[f"{section}.{key}"] = variable
        for key, value in given.items():
            _overlay(merged.setdefault(section, {}), key, value)
            origins[f"{section}.{key}"] = f"--{key.replace('_', '-')}"
    try:
        return CoordinatorConfig.model_validate(merged, strict=False)
    except ValidationError as error:
        raise _explained(error, path, origins) from error


def _explained(error: ValidationError, path: Path, origins: Mapping[str, str]) -> InputError:
    problem = error.errors()[0]
    field = ".".join(str(part) for part in problem["loc"][:2])
    origin = origins.get(field, str(path))
    if origin.startswith("--"):
        return InputError(f"{origin}: {problem['msg']}.")
    return ConfigError(f"{origin}: {field}: {problem['msg']}.", hint=_HINT)
