"""The appliance's configuration: each value declared once, with its origin.

Precedence: environment > file > default (a command's flags override it where they exist).
The environment variable of ``[engine] quantisation`` is ``FEDMED_ENGINE_QUANTISATION``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from appliance.adopted import Rule
from backends.base import Quantisation
from federation.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineSection(_Section):
    """Which engine trains and how it uses the machine."""

    backend: Literal["auto", "cuda", "mlx"] = Field("auto", description="training engine")
    quantisation: Quantisation | Literal["auto"] = Field(
        "none", description="how the frozen base is held in memory; auto: by what is free"
    )
    threads: int | None = Field(None, gt=0, description="compute threads; unset: what is free")
    checkpoint_seconds: float = Field(
        120.0, ge=0, description="a training is written down after so long, to go on after a crash"
    )


class ModelSection(_Section):
    """Which base model answers when no round says."""

    name: str = Field("", description="a model of `appliance models list`; empty: the only one")


class NetworkSection(_Section):
    """How the coordinator is reached."""

    proxy: str = Field("", description="explicit HTTP proxy, such as http://proxy.example:3128")
    ca_file: str = Field("", description="further CA certificate (PEM), such as the proxy's")
    timeout_seconds: float = Field(30.0, gt=0, description="for connecting and for each answer")


class AdoptSection(_Section):
    """Whether a new global adapter is taken into use here (docs/aggregation.md)."""

    rule: Rule = Field(
        "not-worse",
        description="always; not-worse than the present one on held-out data; the best of global, "
        "present and own; or also a mixture of own and global",
    )
    tolerance: float = Field(
        0.01, ge=0, le=10, description="nats a token by which not-worse may be worse"
    )


class DataSection(_Section):
    """How imported data is split."""

    held_out_percent: int = Field(10, ge=1, le=50, description="share kept from training, by hash")


class SafetySection(_Section):
    """Guardrail thresholds."""

    low_confidence: float = Field(0.3, ge=0, le=1, description="below: say that it is uncertain")
    high_confidence: float = Field(
        0.95, ge=0, le=1, description="above: say that certainty is not correctness"
    )

    @model_validator(mode="after")
    def _in_order(self) -> SafetySection:
        if self.low_confidence > self.high_confidence:
            raise ValueError(
                f"low_confidence ({self.low_confidence}) is above "
                f"high_confidence ({self.high_confidence})"
            )
        return self


def _words(value: object) -> object:
    """An environment variable's words as a list."""
    return value.split() if isinstance(value, str) else value


class ServeSection(_Section):
    """The endpoint for other programs (`appliance serve`)."""

    host: str = Field("127.0.0.1", description="address to listen on; others need a token")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0: a free one")
    token_file: str = Field("", description="file of the bearer token that programs must show")
    host_names: Annotated[tuple[str, ...], BeforeValidator(_words)] = Field(
        (), description="further names in a request's Host header, such as a reverse proxy's"
    )
    waiting: int = Field(4, ge=0, le=1000, description="requests that may wait for their turn")


class ApplianceConfig(_Section):
    """The whole of appliance.toml."""

    engine: EngineSection = EngineSection()
    model: ModelSection = ModelSection()
    network: NetworkSection = NetworkSection()
    data: DataSection = DataSection()
    adopt: AdoptSection = AdoptSection()
    safety: SafetySection = SafetySection()
    serve: ServeSection = ServeSection()


@dataclass(frozen=True)
class LoadedConfig:
    """The configuration, and for each ``section.key`` where its value came from."""

    values: ApplianceConfig
    origins: dict[str, str]

    def rows(self) -> list[tuple[str, Any, str]]:
        """(section.key, value, origin), in the order of declaration."""
        return [
            (f"{section}.{key}", value, self.origins.get(f"{section}.{key}", "default"))
            for section, fields in self.values.model_dump().items()
            for key, value in fields.items()
        ]


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary, empty when there is none. Raises ConfigError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error


def first_problem(error: ValidationError) -> str:
    """The first validation problem as ``field: reason``."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> LoadedConfig:
    """Read the configuration. Raises ConfigError naming the file and the field."""
    merged = read_toml(path)
    origins = {
        f"{section}.{key}": str(path)
        for section, fields in merged.items()
        if isinstance(fields, dict)
        for key in fields
    }
    for section, field in ApplianceConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        for key in field.annotation.model_fields:
            variable = f"FEDMED_{section}_{key}".upper()
            if variable in environment:
                if not isinstance(merged.setdefault(section, {}), dict):
                    raise ConfigError(f"{path}: [{section}] must be a table.")
                merged[section][key] = environment[variable]
                origins[f"{section}.{key}"] = variable
    try:
        return LoadedConfig(ApplianceConfig.model_validate(merged), origins)
    except ValidationError as error:
        field_name = ".".join(str(part) for part in error.errors()[0]["loc"])
        where = origins.get(field_name, str(path))
        raise ConfigError(f"{where}: {first_problem(error)}.") from error
