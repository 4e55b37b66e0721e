from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from authz_sidecar.telemetry.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_everything_reported_appears_under_its_documented_name() -> None:
    metrics = Metrics()
    metrics.count_decision("deny", "OUT_OF_SCOPE")
    metrics.count_task("task_started")
    metrics.count_outcome("succeeded", contradicted=True)
    metrics.count_rpc_error("TaskService/GetTask", "TASK_NOT_FOUND")
    metrics.observe_rpc("TaskService/GetTask", perf_counter())
    metrics.observe_step("evaluate", perf_counter())
    metrics.observe_commit(0.0004, 3)
    metrics.ledger_poisoned()
    metrics.svid_expires(datetime(2026, 3, 1, tzinfo=UTC))
    found = samples(metrics)
    for name, labels, value in (
        ("authorize_total", (("outcome", "deny"), ("reason", "OUT_OF_SCOPE")), 1),
        ("tasks_total", (("event", "task_started"),), 1),
        ("outcomes_total", (("contradicted", "true"), ("status", "succeeded")), 1),
        ("rpc_errors_total", (("method", "TaskService/GetTask"), ("reason", "TASK_NOT_FOUND")), 1),
        ("rpc_seconds_count", (("method", "TaskService/GetTask"),), 1),
        ("step_seconds_count", (("step", "evaluate"),), 1),
        ("ledger_commit_seconds_sum", (), 0.0004),
        ("ledger_batch_records_sum", (), 3),
        ("ledger_poisoned", (), 1),
        ("svid_expiry_timestamp_seconds", (), 1772323200),
    ):
        assert found[f"authz_sidecar_{name}", labels] == value


def test_only_the_active_policy_has_a_series() -> None:
    metrics = Metrics()
    metrics.policy_active("sha256:old")
    metrics.policy_active("sha256:new")
    series = [labels for name, labels in samples(metrics) if name == "authz_sidecar_policy_info"]
    assert series == [(("digest", "sha256:new"),)]


def test_followed_values_are_read_at_each_scrape() -> None:
    metrics = Metrics()
    size = 1.0
    metrics.follow(inflight=lambda: 2, ledger_size=lambda: size, bundle_age=lambda: 3)
    assert samples(metrics)["authz_sidecar_ledger_size", ()] == 1
    size = 7.0
    assert samples(metrics)["authz_sidecar_ledger_size", ()] == 7


def test_two_sidecars_in_one_process_do_not_share_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.ledger_poisoned()
    assert samples(other)["authz_sidecar_ledger_poisoned", ()] == 0
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(one.registry)
    assert Metrics(CollectorRegistry()).registry is not one.registry
