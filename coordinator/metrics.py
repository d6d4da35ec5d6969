"""What Prometheus learns: requests, refusals, events, and where round, disk and process stand.

Hospitals appear by name and state only; no figure here comes from an update or from patients' data.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from coordinator.config import MetricsSection
from coordinator.context import Coordinator
from coordinator.events import Emit
from coordinator.rounds import State
from coordinator.status import Status, federation_status
from federation.errors import FedMedError, InputError

_METHODS = frozenset(("GET", "HEAD", "POST", "PATCH"))
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """One application's metrics, in a registry of its own."""

    def __init__(self, coordinator: Coordinator) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.received = Counter(
            "fedmed_received_bytes", "Bytes of request bodies", registry=registry
        )
        self.sent = Counter("fedmed_sent_bytes", "Bytes of answers' bodies", registry=registry)
        self.refused = Counter(
            "fedmed_refused_requests", "Answers of 400 and above", ["reason"], registry=registry
        )
        self.limited = Counter(
            "fedmed_rate_limited_requests", "Refused by a rate limit", ["by"], registry=registry
        )
        self._events = Counter(
            "fedmed_events", "Lines of the event log", ["event"], registry=registry
        )
        self._seconds = Histogram(
            "fedmed_request_seconds",
            "Duration of requests",
            ["route", "method", "status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.federation = FederationCollector(coordinator)
        registry.register(self.federation)
        ProcessCollector(registry=registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request; ``route`` is a template, so that labels stay few."""
        known = method if method in _METHODS else "other"
        self._seconds.labels(route, known, str(status)).observe(seconds)

    def counting(self, emit: Emit) -> Emit:
        """The same event log, with each event counted."""

        def counted(event: str, **fields: str | int | float | None) -> None:
            self._events.labels(event).inc()
            emit(event, **fields)

        return counted


class FederationCollector(Collector):
    """Reads the coordinator's state whenever it is asked."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self.background: threading.Thread | None = None
        """What moves the rounds on; None where nothing was started."""

    def describe(self) -> Iterator[Metric]:
        """Nothing ahead of time: registering must not read the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The gauges of this moment; where the database or disk fails, that they do."""
        if self.background is not None:
            alive = float(self.background.is_alive())
            yield _gauge("fedmed_rounds_move", "1 while rounds are moved on", alive)
        try:
            yield from self._disk()
            yield from self._round(federation_status(self._coordinator))
            up = 1.0
        except FedMedError:
            up = 0.0
        yield _gauge("fedmed_state_readable", "1 while database and disk answer", up)

    def _disk(self) -> Iterator[Metric]:
        blobs = self._coordinator.blobs
        yield _gauge(
            "fedmed_disk_free_bytes", "Free on the disk of uploads", float(blobs.free_bytes())
        )
        yield _gauge("fedmed_disk_reserve_bytes", "What uploads leave free", float(blobs.reserve))

    def _round(self, status: Status) -> Iterator[Metric]:
        yield _gauge("fedmed_round", "Number of the newest round", float(status.round))
        states = GaugeMetricFamily(
            "fedmed_round_state", "1 for the newest round's state", labels=["state"]
        )
        for state in State:
            states.add_metric([state.value], float(state.value == status.state))
        yield states
        if status.deadline is not None:
            left = status.deadline - self._coordinator.clock()
            yield _gauge("fedmed_round_deadline_seconds", "Seconds until the deadline", float(left))
        members = [h for h in status.hospitals if not h.state.startswith("waiting")]
        delivered = sum(h.state == "delivered" for h in members)
        yield _gauge("fedmed_round_expected", "Hospitals on the roster", float(len(members)))
        yield _gauge("fedmed_round_delivered", "Hospitals that delivered", float(delivered))
        yield _gauge("fedmed_round_quorum", "Updates that it needs", float(status.quorum or 0))
        hospitals = GaugeMetricFamily(
            "fedmed_hospital_state", "1 for a hospital's state", labels=["hospital", "state"]
        )
        for hospital in status.hospitals:
            hospitals.add_metric([hospital.hospital, hospital.state], 1.0)
        yield hospitals


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


@contextmanager
def metrics_listener(metrics: Metrics, section: MetricsSection, emit: Emit) -> Iterator[None]:
    """Serve the metrics over HTTP from a thread meanwhile, where the section names a port.

    Raises InputError when the address is taken or not this machine's.
    """
    if not section.port:
        yield
        return
    try:
        server, thread = start_http_server(section.port, section.host, metrics.registry)
    except OSError as error:
        raise InputError(
            f"Cannot listen for metrics on {section.host}:{section.port}: "
            f"{error.strerror or error}.",
            hint="Choose another host or port in [metrics], or stop what listens there.",
        ) from error
    emit("metrics", host=section.host, port=section.port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
