"""How often one may ask, by hospital once it is known, by address before; how much at once."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coordinator.config import LimitsSection
from coordinator.errors import TooManyRequests

_MOST_KEYS = 4096
_PARTS_AT_ONCE = 4
"""An appliance sends one; those of connections that were cut are found out after a while."""
_OCCUPIED_SECONDS = 2


class RateLimit:
    """Token buckets by key: each holds ``burst`` requests and gains ``per_second`` of them.

    A bucket that is full again is forgotten, and the one used longest ago where there are more
    than 4096, so that no number of callers fills the memory.
    """

    def __init__(
        self, per_second: float, burst: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._monotonic = monotonic
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Key -> tokens and when they were counted, the one used longest ago first."""
        self._lock = threading.Lock()

    def wait(self, key: str) -> float:
        """0 where the key's next request is allowed; else seconds until some are again."""
        with self._lock:
            return self._wait(self._tokens(key))

    def take(self, key: str) -> float:
        """As ``wait``, and where it is 0 the request is counted."""
        with self._lock:
            tokens = self._tokens(key)
            if wait := self._wait(tokens):
                return wait
            self._buckets[key] = (tokens - 1, self._monotonic())
            self._buckets.move_to_end(key)
            if len(self._buckets) > _MOST_KEYS:
                self._buckets.popitem(last=False)
            return 0.0

    def __len__(self) -> int:
        return len(self._buckets)

    def _tokens(self, key: str) -> float:
        if key not in self._buckets:
            return float(self._burst)
        tokens, at = self._buckets[key]
        tokens += (self._monotonic() - at) * self._per_second
        if tokens >= self._burst:
            del self._buckets[key]
            return float(self._burst)
        return tokens

    def _wait(self, tokens: float) -> float:
        # Whoever came back for a single request would be refused in the middle of its work again.
        enough = max(1.0, self._burst / 4)
        return 0.0 if tokens >= 1 else (enough - tokens) / self._per_second


class AtOnce:
    """At most ``most`` at one time by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._held.total()

    @contextmanager
    def one(self, key: str) -> Iterator[None]:
        """Be one of them for the length of the block. Raises TooManyRequests."""
        with self._lock:
            if self._held[key] >= self._most:
                raise TooManyRequests.after(_OCCUPIED_SECONDS, "hospital")
            self._held[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]


class Limits:
    """What one application lets its callers do: how often, and how much at one time.

    An address is charged for what cannot be attributed to a hospital: requests whose signature
    does not verify, enrolments, readiness checks. Hospitals behind one proxy do not share a limit,
    but that of asking for the coordinator's keys, which keeps them from nothing else.
    """

    def __init__(
        self, section: LimitsSection, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._hospitals = RateLimit(section.requests_per_second, section.request_burst, monotonic)
        self._addresses = RateLimit(section.strangers_per_second, section.stranger_burst, monotonic)
        self._key_askers = RateLimit(
            section.strangers_per_second, section.stranger_burst, monotonic
        )
        self.parts = AtOnce(_PARTS_AT_ONCE)
        """By hospital: each holds a part in memory."""
        self.commits = AtOnce(1)
        """By upload: each reads and verifies the whole of it."""

    def check_address(self, address: str) -> None:
        """Raise TooManyRequests while the address has nothing left; charges nothing."""
        _refuse_for(self._addresses.wait(_network(address)), "address")

    def charge_address(self, address: str) -> None:
        """Count a request of nobody known. Raises TooManyRequests."""
        _refuse_for(self._addresses.take(_network(address)), "address")

    def charge_key_asker(self, address: str) -> None:
        """Count a question for the coordinator's keys, of anybody. Raises TooManyRequests."""
        _refuse_for(self._key_askers.take(_network(address)), "address")

    def charge_hospital(self, hospital: str) -> None:
        """Count a member's request. Raises TooManyRequests."""
        _refuse_for(self._hospitals.take(hospital), "hospital")


def _refuse_for(seconds: float, by: str) -> None:
    if seconds:
        raise TooManyRequests.after(seconds, by)


def _network(address: str) -> str:
    """The address; of IPv6 the /64, of which one machine has as many addresses as it likes."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 6:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return address
