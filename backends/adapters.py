"""Canonical adapter files: read with every check, written in name order as float32."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from federation.adapter import AdapterSchema, check_layout, checked_tensors
from federation.errors import AdapterError
from federation.files import atomic_writer
from federation.tensors import read_header, read_tensors, write_tensors


def read_adapter(path: Path, schema: AdapterSchema) -> dict[str, np.ndarray]:
    """The adapter's tensors in the file's own dtype (float32, bfloat16 or float16), by name.

    Raises AdapterError when the file is damaged, does not fit the schema or is not finite.
    """
    try:
        with path.open("rb") as file:
            infos = read_header(file)
            check_layout({info.name: info.shape for info in infos}, schema.shapes())
            return dict(checked_tensors(read_tensors(file, infos)))
    except OSError as error:
        raise AdapterError(f"The adapter {path} cannot be read: {error.strerror}.") from error
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}", hint=error.hint) from error


def fingerprint(tensors: Mapping[str, np.ndarray], schema: AdapterSchema) -> str:
    """A digest of what an adapter computes: by it an engine knows which prompt caches are its."""
    digest = hashlib.sha256(schema.to_json())
    for name in sorted(tensors):
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def write_adapter(target: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write the tensors as canonical float32 safetensors, durably. Raises StorageError."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    with atomic_writer(target) as file:
        write_tensors(file, shapes, ((name, tensors[name]) for name in sorted(tensors)))
