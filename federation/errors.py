"""The one error tree.

FedMedError
├── InputError            2  a flag, file or field a person gave is wrong
│   ├── ConfigError       2  a TOML file or environment variable
│   ├── DataError         2  training data
│   └── ModelError        2  base model: missing, incomplete, other digest
├── IdentityError         3  invite, token, key, signature, enrolment
│   └── AuditError        3  the coordinator's log contradicts itself or what is held here
├── PolicyRefusal         4  the hospital's own policy forbids it
├── RoundError            5  no such round, closed, already delivered
│   └── RoundClosed       5
├── AdapterError          6  tensors that do not fit the round's schema
├── EnvelopeError         6  sealed update damaged, or sealed to another context
├── TransportError        7  no connection, wrong certificate, bad answer
├── BackendError          8  training engine missing or unable
│   ├── OutOfMemory       8
│   └── LossNotFinite     8  training diverged
└── StorageError          9  disk full, not writable, state damaged

The number is the process's exit code. ``slug`` is the stable tail of the RFC 9457
problem ``type`` and ``status`` its HTTP status, so that an error raised inside the
coordinator reaches the hospital's terminal as the same class.
"""

from __future__ import annotations

from typing import ClassVar

PROBLEM_PREFIX = "urn:fedmed:problem:"


class FedMedError(Exception):
    """Something a person has to know: what happened, and in ``hint`` what to do next.

    ``retryable`` says that the same call may succeed later, with nothing changed here;
    ``retry_after`` is how many seconds the other side asks to wait before, 0 where it does not say.
    """

    exit_code: ClassVar[int] = 1
    slug: ClassVar[str] = "error"
    status: ClassVar[int] = 400
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "", retryable: bool = False) -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint
        self.retryable = retryable
        self.retry_after = 0


class InputError(FedMedError):
    """A flag, file or field that a person gave is wrong."""

    exit_code = 2
    slug = "invalid-input"
    status = 422
    default_hint = "Correct what the message names and run the command again (--help)."


class ConfigError(InputError):
    """A configuration file or environment variable is wrong."""

    slug = "invalid-config"
    default_hint = "`config show --origin` tells where each value comes from."


class DataError(InputError):
    """Training data is missing, malformed or empty."""

    slug = "invalid-data"
    default_hint = "Correct the file; `appliance data stats` shows what is imported here."


class ModelError(InputError):
    """The base model is missing, incomplete, or not the one this round asks for."""

    slug = "invalid-model"
    default_hint = "`appliance models list` shows what is installed."


class IdentityError(FedMedError):
    """An invite, token, key, signature or enrolment is not valid."""

    exit_code = 3
    slug = "identity"
    status = 401
    default_hint = "`appliance doctor` checks keys and enrolment; else ask the coordinator."


class AuditError(IdentityError):
    """The audit log was rewritten, was shortened, or leaves something out."""

    slug = "audit"
    default_hint = "Keep all files, ask the coordinator's administrator and the other hospitals."


class PolicyRefusal(FedMedError):
    """The hospital's own policy forbids what was asked; no coordinator can override it."""

    exit_code = 4
    slug = "policy"
    status = 403
    default_hint = "policy.toml belongs to the hospital; `appliance paths` shows where it is."


class RoundError(FedMedError):
    """There is no such round, or it does not accept this."""

    exit_code = 5
    slug = "round"
    status = 409
    default_hint = "`appliance status` shows the newest round and what is done here."


class RoundClosed(RoundError):
    """The round no longer accepts updates: its key is gone."""

    slug = "round-closed"
    status = 410
    default_hint = "Wait for the next round: `appliance status` shows it."


class AdapterError(FedMedError):
    """An adapter's tensors do not fit the schema: missing, extra, mis-shaped, non-finite."""

    exit_code = 6
    slug = "invalid-adapter"
    status = 422
    default_hint = "Nothing of it was used; are both sides on the same version of fedmed?"


class EnvelopeError(FedMedError):
    """A sealed update is damaged, or was sealed for another context."""

    exit_code = 6
    slug = "invalid-envelope"
    status = 422
    default_hint = "Nothing of it was aggregated; remove the round's outbox folder and train again."


class TransportError(FedMedError):
    """The coordinator cannot be reached, or what answered is not the coordinator."""

    exit_code = 7
    slug = "transport"
    status = 503
    default_hint = "`appliance doctor` tries the connection; does the firewall let it through?"


class BackendError(FedMedError):
    """The training engine is missing, or cannot do what was asked."""

    exit_code = 8
    slug = "backend"
    status = 503
    default_hint = "`appliance doctor` says which engines this machine has."


class OutOfMemory(BackendError):
    """Memory ran out, or would by the estimate."""

    slug = "out-of-memory"
    default_hint = (
        "Close other programs, hold the base in 4 bits (--use-4bit), or cut batches finer "
        "(--forward-tokens); the gradients stay the same."
    )


class LossNotFinite(BackendError):
    """A loss or gradient became NaN or infinite; ``examples`` are indices into the job's."""

    slug = "loss-not-finite"
    default_hint = "Look at those examples, or lower the learning rate."

    def __init__(self, message: str, *, hint: str = "", examples: tuple[int, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.examples = examples


class StorageError(FedMedError):
    """The disk is full or not writable, or stored state is damaged."""

    exit_code = 9
    slug = "storage"
    status = 507
    default_hint = "Check the free space, the owner and the permissions there."


def _leaves(cls: type[FedMedError]) -> dict[str, type[FedMedError]]:
    found = {cls.slug: cls}
    for sub in cls.__subclasses__():
        # Others may refine a status; what crosses the wire is a class of this tree.
        if sub.__module__ == __name__:
            found |= _leaves(sub)
    return found


def from_problem(problem_type: str, detail: str, hint: str = "") -> FedMedError:
    """The error that a problem document describes; an unknown type becomes a TransportError."""
    slug = problem_type.removeprefix(PROBLEM_PREFIX)
    return _leaves(FedMedError).get(slug, TransportError)(detail, hint=hint)
