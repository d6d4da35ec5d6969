"""Refusals that differ from their class only by the HTTP status.

On the wire they are their parent (the same ``type``), so a hospital sees the parent's class.
"""

from __future__ import annotations

import math

from federation.errors import IdentityError, InputError, RoundError, StorageError, TransportError


class CannotAggregate(RoundError):
    """The updates of a round do not make an adapter; the round ends with the previous one."""


class NotOnRoster(IdentityError):
    """The caller is known or unknown, but not a member now."""

    status = 403


class NoSuchRound(RoundError):
    """No such round, upload, adapter or record, or not yet."""

    status = 404


class TooManyUploads(RoundError):
    """The hospital has as many unfinished or refused uploads as it may."""

    status = 429

    @classmethod
    def until(cls, seconds: int, message: str, *, hint: str) -> TooManyUploads:
        """The refusal that says when to ask again."""
        error = cls(message, hint=hint)
        error.retry_after = seconds
        return error


class TooManyRequests(TransportError):
    """More requests than one hospital, or one unknown address, may send; ``by`` says which."""

    status = 429
    by = ""

    @classmethod
    def after(cls, seconds: float, by: str) -> TooManyRequests:
        """The refusal that says when to ask again, in whole seconds."""
        wait = math.ceil(seconds)
        error = cls(
            f"Too many requests of this {by}: ask again in {wait} s.",
            hint="Nothing is lost; the appliance waits and goes on by itself.",
        )
        error.retry_after, error.by = wait, by
        return error


class NotReady(StorageError):
    """The coordinator cannot do its work now; the message names every part that fails."""

    status = 503


class WrongOffset(RoundError):
    """A part does not continue where the upload stands; ``offset`` is where it does."""

    offset = 0

    @classmethod
    def at(cls, offset: int) -> WrongOffset:
        """The refusal that tells the true offset."""
        error = cls(f"The upload continues at byte {offset}.")
        error.offset = offset
        return error


class TooLarge(InputError):
    """A request body above its limit."""

    status = 413


class UnsupportedMedia(InputError):
    """A content type or encoding that is not taken."""

    status = 415


class TooSlow(InputError):
    """No byte of a request body for too long."""

    status = 408


class BadRange(InputError):
    """A Range header that an adapter of ``size`` bytes cannot satisfy."""

    status = 416
    size = 0

    @classmethod
    def of(cls, size: int) -> BadRange:
        """The refusal that tells the true size."""
        error = cls(f"The range does not lie within the adapter's {size} bytes.")
        error.size = size
        return error
