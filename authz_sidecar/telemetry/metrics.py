"""Prometheus metrics. All of them, so that a dashboard's author reads one file.

Labels come from closed sets or from the operator's own files (reason codes, policy digests), never from a caller:
tool names, agents and tasks are in the ledger, not here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# What `render` returns: the text format every Prometheus reads.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. Fine around the decision path's budget (about a millisecond), coarse where only alarm matters.
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """The metrics of one sidecar, registered at `registry`. Two instances need two registries."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Raises ValueError when `registry` holds these names already."""
        self.registry = registry if registry is not None else CollectorRegistry()
        self._authorize = self._counter("authorize_total", "Decisions that were recorded.", "outcome", "reason")
        self._tasks = self._counter("tasks_total", "Task transitions that were recorded.", "event")
        self._outcomes = self._counter("outcomes_total", "Reported outcomes.", "status", "contradicted")
        self._receipts = self._counter("receipts_total", "Receipts of tool servers.", "contradicted")
        self._revocations = self._counter("revocations_total", "Revocations asked for.", "kind")
        self._standing = self._counter("agent_standing_total", "Agents suspended and resumed.", "event")
        self._watchers = self._gauge("revocation_watchers", "Tool servers that follow the revocation feed.")
        self._rpc_errors = self._counter("rpc_errors_total", "Calls answered by an error.", "method", "reason")
        self._rpc_seconds = self._seconds("rpc_seconds", "Time of one call, or of one message of a stream.", "method")
        self._step_seconds = self._seconds("step_seconds", "Time of one step of a decision.", "step")
        self._commit_seconds = self._seconds("ledger_commit_seconds", "Time of one durable commit.")
        self._batch_records = self._histogram("ledger_batch_records", "Records per commit.", (), _BATCHES)
        self._poisoned = self._gauge("ledger_poisoned", "1 when the ledger refuses all writing until a restart.")
        self._ledger_size = self._gauge("ledger_size", "Entries in the ledger.")
        self._inflight = self._gauge("inflight", "Calls and streamed requests in progress.")
        self._policy = self._gauge("policy_info", "The active policy bundle.", "digest")
        self._svid_expiry = self._gauge("svid_expiry_timestamp_seconds", "End of the own X.509-SVID, Unix time.")
        self._bundle_age = self._gauge("bundle_age_seconds", "Time since the trust bundles were last read in full.")

    def render(self) -> bytes:
        """Everything in Prometheus' text format, CONTENT_TYPE."""
        return generate_latest(self.registry)

    def follow(
        self, *, inflight: Callable[[], float], ledger_size: Callable[[], float], bundle_age: Callable[[], float]
    ) -> None:
        """Where to read, at each `render`, what nobody needs to push. `bundle_age` in seconds."""
        self._inflight.set_function(inflight)
        self._ledger_size.set_function(ledger_size)
        self._bundle_age.set_function(bundle_age)

    def count_decision(self, outcome: str, reason: str) -> None:
        """One recorded decision: `permit`, `deny` or `approval_required`, and its reason code."""
        self._authorize.labels(outcome, reason).inc()

    def count_task(self, event: str) -> None:
        """One recorded transition, by its record type."""
        self._tasks.labels(event).inc()

    def count_outcome(self, status: str, *, contradicted: bool) -> None:
        """One reported outcome, or `missing`, and whether it contradicts its decision."""
        self._outcomes.labels(status, "true" if contradicted else "false").inc()

    def count_receipt(self, *, contradicted: bool) -> None:
        """One recorded receipt, and whether it contradicts its decision."""
        self._receipts.labels("true" if contradicted else "false").inc()

    def count_revocation(self, kind: str) -> None:
        """One recorded revocation: of a `jti`, `task_id`, `agent` or `kid`."""
        self._revocations.labels(kind).inc()

    def count_standing(self, event: str) -> None:
        """One agent suspended or resumed, by record type."""
        self._standing.labels(event).inc()

    def follow_watchers(self, watchers: Callable[[], float]) -> None:
        """Where to read, at each `render`, how many follow the revocation feed."""
        self._watchers.set_function(watchers)

    def count_rpc_error(self, method: str, reason: str) -> None:
        """One error answer: `Service/Method` and the stable reason."""
        self._rpc_errors.labels(method, reason).inc()

    def observe_rpc(self, method: str, started: float) -> None:
        """One call of `Service/Method`, or one message of its stream, that began at `perf_counter()` = `started`."""
        self._rpc_seconds.labels(method).observe(perf_counter() - started)

    def observe_step(self, step: str, started: float) -> None:
        """One step of a decision that began at `perf_counter()` = `started`."""
        self._step_seconds.labels(step).observe(perf_counter() - started)

    def observe_commit(self, seconds: float, records: int) -> None:
        """One durable commit of `records` records."""
        self._commit_seconds.observe(seconds)
        self._batch_records.observe(records)

    def ledger_poisoned(self) -> None:
        """The ledger stopped for good. Safe to call from the ledger's own thread."""
        self._poisoned.set(1)

    def policy_active(self, digest: str) -> None:
        """The one active bundle: the previous digest's series ends."""
        self._policy.clear()
        self._policy.labels(digest).set(1)

    def svid_expires(self, moment: datetime) -> None:
        """The end of the sidecar's own certificate."""
        self._svid_expiry.set(moment.timestamp())

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, namespace="authz_sidecar", registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, namespace="authz_sidecar", registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return self._histogram(name, text, labels, _BUCKETS)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, labels, namespace="authz_sidecar", registry=self.registry, buckets=buckets)
