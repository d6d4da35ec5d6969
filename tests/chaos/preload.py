"""Imported once by the fork server, so that a program begins in milliseconds, not seconds."""

from __future__ import annotations

import pytest  # noqa: F401  a forked child looks at its parent's main module again
import tensorboardX  # noqa: F401
import tokenizers  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import appliance.cli
import appliance.enrolment
import appliance.rounds.participation
import appliance.rounds.sync
import backends.cuda.model
import backends.cuda.training
import coordinator.cli
import coordinator.closing
import coordinator.enrolment
import coordinator.home
import coordinator.opening
import coordinator.server  # noqa: F401

torch.set_num_threads(1)
