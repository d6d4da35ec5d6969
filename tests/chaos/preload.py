"""Imported once by the fork server, so that a program begins in milliseconds, not seconds."""

from __future__ import annotations

import gc
import importlib

_SLOW = (
    # A forked child looks at its parent's main module again, which may be pytest.
    "pytest",
    "tensorboardX",
    "transformers.models.llama.modeling_llama",
    "appliance.enrolment",
    "appliance.rounds.participation",
    "appliance.rounds.sync",
    "backends.cuda.loading",
    "backends.cuda.model",
    "coordinator.closing",
    "coordinator.enrolment",
    "coordinator.home",
    "coordinator.opening",
    "coordinator.server",
)

for _name in _SLOW:
    importlib.import_module(_name)
# Collected in each child, all of this would be copied there page by page.
gc.collect()
gc.freeze()
