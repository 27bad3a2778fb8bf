"""Counters, histograms and gauges: what counts as what, under which values."""

import logging
import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from telemetry_scenario import (
    DAILY,
    Rig,
    granted,
    rejected,
    released,
    spent,
    standing,
    throttled,
    ticket,
    under,
    waiting,
)

from loco_otel._telemetry import CallTrace, catalogue
from loco_otel._telemetry.instruments import POINT_LIMIT, CardinalityLimit, PointLimit
from loco_otel._telemetry.metrics_source import MetricsSource
from loco_otel._telemetry.pipeline import ProcessState, Telemetry
from loco_otel._version import __version__
from loco_otel.events import (
    AgentSnapshot,
    BudgetExceeded,
    Bypassed,
    BypassReason,
    GrantReason,
    Outcome,
    ResourceSnapshot,
    Snapshot,
    Submitted,
    Suspended,
    ThrottleKind,
    Usage,
)
from loco_otel.money import Action

# Points are named by the values of their attributes, in the order of the keys: agent, outcome, resource, ...


def test_grant_counts_a_request_a_grant_and_a_wait() -> None:
    rig = Rig()
    rig.tell(granted(ticket()))
    assert rig.points("loco.acquire.requests") == {("analyst", "granted", "llm_api"): 1}
    assert rig.points("loco.grants")["score", "llm_api"] == 1
    assert rig.points("loco.wait.duration") == {("analyst", "granted", "normal", "llm_api"): 1}
    assert rig.points("loco.wait.ticks") == {("analyst", "normal", "llm_api"): 1}


def test_second_wait_of_a_retry_is_no_second_request() -> None:
    rig = Rig()
    who = ticket()
    rig.tell(granted(who), Suspended(996.0, who, 1.0), granted(who, repeated=True))
    assert rig.points("loco.acquire.requests") == {("analyst", "granted", "llm_api"): 1}
    assert rig.points("loco.grants")["score", "llm_api"] == 2
    assert rig.points("loco.wait.duration") == {("analyst", "granted", "normal", "llm_api"): 2}
    assert rig.points("loco.wait.ticks") == {("analyst", "normal", "llm_api"): 2}


def test_rejection_in_a_second_wait_is_no_second_request() -> None:
    rig = Rig()
    who = ticket()
    rig.tell(granted(who), Suspended(996.0, who, 1.0), rejected(who, Outcome.CANCELLED, repeated=True))
    assert rig.points("loco.acquire.requests") == {("analyst", "granted", "llm_api"): 1}
    assert rig.points("loco.wait.duration")["analyst", "cancelled", "normal", "llm_api"] == 1


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.GRANTED])
def test_rejection_counts_a_request_and_a_wait(outcome: Outcome) -> None:
    rig = Rig()
    rig.tell(rejected(ticket(), outcome))
    assert rig.points("loco.acquire.requests") == {("analyst", outcome.value, "llm_api"): 1}
    assert rig.points("loco.wait.duration") == {("analyst", outcome.value, "normal", "llm_api"): 1}
    assert rig.points("loco.wait.ticks") == {}
    assert sum(rig.points("loco.grants").values()) == 0


def test_every_hold_is_measured() -> None:
    rig = Rig()
    who = ticket()
    rig.tell(Suspended(996.0, who, held=1.0), released(who))
    assert rig.points("loco.hold.duration") == {("analyst", "llm_api"): 2}
    assert rig.points("loco.leases.expired") == {("llm_api",): 0}
    rig.tell(released(who, expired=True))
    assert rig.points("loco.leases.expired") == {("llm_api",): 1}


def test_spending_is_counted() -> None:
    rig = Rig()
    rig.tell(
        spent(ticket(provider="openai", model="gpt-4o")),
        spent(ticket(provider="openai", model="gpt-4o"), usage=None),
    )
    assert rig.points("loco.spend.weight") == {("openai", "gpt-4o", "analyst"): 3.0}
    assert rig.points("loco.tokens") == {
        ("openai", "gpt-4o", "input", "analyst"): 100,
        ("openai", "gpt-4o", "output", "analyst"): 20,
    }
    assert rig.points("loco.spend") == {("openai", "gpt-4o", "analyst", "unknown"): 0.0025}
    assert rig.points("loco.spend.unpriced") == {}


def test_money_is_counted_by_tenant_and_unpriced_apart() -> None:
    rig = Rig()
    rig.tell(
        spent(ticket(provider="openai", model="gpt-4o", tenant="acme")),
        spent(ticket(provider="openai", model="gpt-4o", tenant="acme")),
        spent(ticket(provider="openai", model="our-own"), usd=None),
    )
    assert rig.points("loco.spend") == {("openai", "gpt-4o", "analyst", "acme"): 0.005}
    assert rig.points("loco.spend.unpriced") == {("openai", "our-own", "all"): 1}


def test_item_without_a_price_is_counted_by_its_kind() -> None:
    rig = Rig()
    event = spent(ticket(provider="openai", model="gpt-4o"))
    rig.tell(event._replace(spending=event.spending._replace(unpriced=("web_searches", "inference_geo"))))
    assert rig.points("loco.spend") == {("openai", "gpt-4o", "analyst", "unknown"): 0.0025}
    assert rig.points("loco.spend.unpriced") == {
        ("openai", "gpt-4o", "web_searches"): 1,
        ("openai", "gpt-4o", "inference_geo"): 1,
    }


def test_estimated_tokens_are_counted() -> None:
    rig = Rig()
    rig.tell(spent(ticket(), usage=Usage(5, 6, estimated=True)))
    assert sum(rig.points("loco.tokens").values()) == 11


def test_missing_attributes_are_unknown() -> None:
    rig = Rig()
    rig.tell(spent(ticket()), throttled(ticket()))
    # The model that answered is known even so.
    assert rig.points("loco.spend.weight") == {("unknown", "gpt-4o-2024-08-06", "analyst"): 1.5}
    assert rig.points("loco.throttles") == {("429", "unknown", "llm_api", "load"): 1}


def test_throttles_separate_load_from_an_empty_account() -> None:
    rig = Rig()
    who = ticket(provider="anthropic")
    rig.tell(throttled(who, status=529), throttled(who, kind=ThrottleKind.SPEND), throttled(who))
    assert rig.points("loco.throttles") == {
        ("529", "anthropic", "llm_api", "load"): 1,
        ("spend_limit", "anthropic", "llm_api", "spend"): 1,
        ("429", "anthropic", "llm_api", "load"): 1,
    }


def test_bypasses_are_counted() -> None:
    rig = Rig()
    assert rig.points("loco.bypassed") == dict.fromkeys([(reason.value,) for reason in BypassReason], 0)
    rig.tell(Bypassed(1.0, BypassReason.INTERNAL_ERROR))
    assert rig.points("loco.bypassed")[("internal_error",)] == 1


ZEROS = {(reason.value, "llm_api"): 0 for reason in GrantReason}


def test_counters_of_a_new_resource_start_at_zero() -> None:
    rig = Rig()
    assert rig.points("loco.grants") == {}
    rig.tell(Submitted(990.0, ticket()))
    assert rig.points("loco.grants") == ZEROS
    assert rig.points("loco.leases.expired") == {("llm_api",): 0}


def test_counters_of_a_known_resource_start_at_zero() -> None:
    rig = Rig(resources=["llm_api"])
    assert rig.points("loco.grants") == ZEROS
    assert rig.points("loco.leases.expired") == {("llm_api",): 0}


def test_set_of_resources_counts_once() -> None:
    rig = Rig()
    rig.tell(granted(ticket(resources=("search", "llm_api"))))
    assert rig.points("loco.acquire.requests") == {("analyst", "granted", "llm_api+search"): 1}


def test_measurements_land_in_the_buckets_of_their_row() -> None:
    rig = Rig()
    rig.tell(granted(ticket(), waited=0.0, ticks=0), granted(ticket(), waited=0.02, ticks=3))
    (point,) = rig.metrics()["loco.wait.duration"].data.data_points
    assert list(getattr(point, "bucket_counts", ()))[:4] == [1, 0, 0, 1]
    (point,) = rig.metrics()["loco.wait.ticks"].data.data_points
    assert list(getattr(point, "bucket_counts", ()))[:4] == [1, 0, 0, 1]


def test_exemplars_link_to_the_call() -> None:
    rig = Rig()
    caller, stranger = rig.parent(), rig.parent()
    with trace.use_span(stranger):
        rig.tell(granted(ticket("traced", context=under(caller))))
        rig.tell(granted(ticket("untraced")), granted(ticket("rootless", context=CallTrace(Context()))))
        metrics = rig.metrics()
    traces = {
        (point.attributes or {}).get("loco.agent.id"): [each.trace_id for each in point.exemplars]
        for point in metrics["loco.wait.duration"].data.data_points
    }
    assert traces == {"traced": [caller.get_span_context().trace_id], "untraced": [], "rootless": []}
    for metric in metrics.values():
        for point in metric.data.data_points:
            assert stranger.get_span_context().trace_id not in [each.trace_id for each in point.exemplars]


def test_gauges_show_the_state() -> None:
    rig = Rig(active=[("openai", "3.54.0"), ("anthropic", "2.12.0"), ("openai", "3.54.0")])
    assert rig.points("loco.requests.waiting") == {("analyst", "llm_api"): 3, ("idle", "llm_api"): 0}
    assert rig.points("loco.requests.active") == {("analyst", "llm_api"): 1, ("idle", "llm_api"): 2}
    assert rig.points("loco.queue.weight") == {("analyst", "llm_api"): 4.5, ("idle", "llm_api"): 0}
    assert rig.points("loco.queue.age") == {("analyst", "llm_api"): 40, ("idle", "llm_api"): 0}
    assert rig.points("loco.queue.wait") == {("analyst", "llm_api"): 12.5, ("idle", "llm_api"): 0}
    assert rig.points("loco.requests.waiting.max") == {(): 50}
    # No score where an agent does not compete, no capacity where there is no limit.
    assert rig.points("loco.load.score") == {("analyst", "llm_api"): 0.75}
    assert rig.points("loco.resource.capacity") == {("llm_api",): 3}
    assert rig.points("loco.scheduler.alpha") == {("llm_api",): 0.25, ("search",): 0.5}
    assert rig.points("loco.scheduler.ticks") == {("llm_api",): 321, ("search",): 7}
    # No index where fewer than two agents compete.
    assert rig.points("loco.fairness.index") == {("llm_api",): 0.9}
    assert rig.points("loco.resource.saturation") == {("llm_api",): 2.0}
    assert rig.points("loco.limit.reference") == {("llm_api",): 5}
    assert rig.points("loco.ratelimit.limit") == {("requests", "llm_api"): 500, ("tokens", "llm_api"): 30_000}
    assert rig.points("loco.ratelimit.remaining") == {("requests", "llm_api"): 499}
    assert rig.points("loco.info") == {
        ("auto", "load", "llm_api", __version__): 1,
        ("unlimited", "load", "search", __version__): 1,
    }
    assert rig.points("loco.active") == {("openai", "3.54.0"): 1, ("anthropic", "2.12.0"): 1}


def test_collection_takes_one_snapshot() -> None:
    rig = Rig()
    for collections in range(1, 4):
        rig.metrics()
        assert rig.snapshots == collections


def test_collection_flushes_once_and_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    flushes: list[int] = []
    other = InMemoryMetricReader()
    rig = Rig(readers=[other])
    flush = MetricsSource.flush

    def flush_observed(source: MetricsSource) -> None:
        flushes.append(1)
        flush(source)

    monkeypatch.setattr(MetricsSource, "flush", flush_observed)
    for collections in range(1, 4):
        rig.tell(granted(ticket()))
        rig.clock.now += 0.01
        for reader in (rig.reader, other):
            data: Any = reader.get_metrics_data()
            (waits,) = (
                metric.data.data_points[0].count
                for metric in data.resource_metrics[0].scope_metrics[0].metrics
                if metric.name == "loco.wait.duration"
            )
            assert waits == collections
        # One more for the integral of waits, which needs the events up to its own moment.
        assert len(flushes) == 4 * collections


def test_values_above_the_limit_are_other() -> None:
    rig = Rig(value_limit=2)
    for number in range(5):
        who = ticket(
            f"agent-{number}",
            resources=(f"resource-{number}",),
            provider=f"provider-{number}",
            model=f"m-{number}",
        )
        rig.tell(granted(who), spent(who), throttled(who), released(who, expired=True))

    assert rig.points("loco.acquire.requests") == {
        ("agent-0", "granted", "resource-0"): 1,
        ("agent-1", "granted", "resource-1"): 1,
        ("other", "granted", "other"): 3,
    }
    assert rig.points("loco.leases.expired") == {("resource-0",): 1, ("resource-1",): 1, ("other",): 3}
    assert rig.points("loco.spend.weight") == {
        ("provider-0", "m-0", "agent-0"): 1.5,
        ("provider-1", "m-1", "agent-1"): 1.5,
        ("other", "other", "other"): 4.5,
    }
    assert ("429", "other", "other", "load") in rig.points("loco.throttles")


def test_agents_of_one_name_in_two_tenants_make_one_value() -> None:
    agents = tuple(
        AgentSnapshot("agent", n, n, 1000 * n, n, float(n), n / 10, tenant)
        for n, tenant in ((1, None), (3, "acme"), (2, "beta"))
    )
    resource = ResourceSnapshot("r", "load", 9, 6, 6, 10, 0.25, 1.0, agents)
    rig = Rig(snapshot=lambda: Snapshot(0.0, (resource,)))
    assert rig.points("loco.requests.waiting") == rig.points("loco.requests.active") == {("agent", "r"): 6}
    assert rig.points("loco.queue.weight") == {("agent", "r"): 6.0}
    assert rig.points("loco.queue.age") == {("agent", "r"): 3}
    assert rig.points("loco.queue.wait") == {("agent", "r"): 3.0}
    assert rig.points("loco.load.score") == {("agent", "r"): 0.3}


def test_pause_of_a_provider_is_a_gauge_with_its_header() -> None:
    resources = [ResourceSnapshot("r", "load", 1, 0, 0, 0, 0.0, 1.0, (), 40.0, header) for header in ("x", None)]
    rig = Rig(snapshot=lambda: Snapshot(0.0, tuple(resources)))
    assert rig.points("loco.gate.closed") == {("backoff", "x", "r"): 40.0, ("backoff", "r"): 40.0}
    resources[:] = [resources[0]._replace(pause=0.0)]
    assert rig.points("loco.gate.closed") == {}


def test_used_up_rate_is_a_gate() -> None:
    gated = ResourceSnapshot("r", "load", 1, 0, 0, 0, 0.0, 1.0, (), gates=(("tokens", 2.5),))
    rig = Rig(snapshot=lambda: Snapshot(0.0, (gated,)))
    assert rig.points("loco.gate.closed") == {("tokens", "r"): 2.5}


def test_folded_gauges_make_one_value() -> None:
    agents = tuple(AgentSnapshot(f"agent-{n}", n, n, 1000 * n, n, float(n), n / 10) for n in range(1, 5))
    resources = [ResourceSnapshot(f"r-{n}", "load", n, n, n, 10 * n, n / 10, n / 10, agents[:n]) for n in range(1, 5)]
    rig = Rig(snapshot=lambda: Snapshot(0.0, tuple(resources)), value_limit=1)
    assert rig.points("loco.requests.waiting") == {
        ("agent-1", "r-1"): 1,
        ("agent-1", "other"): 3,
        ("other", "other"): 2 + (2 + 3) + (2 + 3 + 4),
    }
    assert rig.points("loco.queue.weight")["other", "other"] == 16.0
    assert rig.points("loco.queue.age")["other", "other"] == 4
    assert rig.points("loco.queue.wait")["other", "other"] == 4.0
    assert rig.points("loco.load.score")["other", "other"] == 0.4
    assert rig.points("loco.resource.capacity") == {("r-1",): 1, ("other",): 9}
    assert rig.points("loco.scheduler.ticks") == {("r-1",): 10, ("other",): 90}
    assert rig.points("loco.scheduler.alpha") == {("r-1",): 0.1, ("other",): 0.4}
    assert rig.points("loco.fairness.index") == {("r-1",): 0.1, ("other",): 0.2}


def test_counters_and_gauges_name_the_same_agents() -> None:
    rig = Rig(value_limit=2)
    rig.metrics()
    rig.tell(granted(ticket("newcomer")), granted(ticket("analyst")))
    assert set(rig.points("loco.wait.ticks")) == {("analyst", "normal", "llm_api"), ("other", "normal", "llm_api")}


def test_folding_is_permanent_and_per_key() -> None:
    fold = CardinalityLimit(2)
    assert [fold("k", value) for value in ("a", "b", "c", "a", "c")] == ["a", "b", "other", "a", "other"]
    assert fold("another", "c") == "c"


def test_folding_under_threads_keeps_the_limit() -> None:
    fold = CardinalityLimit(50)
    passed: list[set[str]] = []

    def work(offset: int) -> None:
        passed.append({fold("k", f"v-{(offset + number) % 500}") for number in range(2000)})

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(0, 400, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set().union(*passed) - {"other"}) <= 50
    assert len(fold._numbers_by_value["k"]) <= 50 + len(threads)


def test_value_that_lost_a_race_stays_other() -> None:
    fold = CardinalityLimit(2)
    fold("k", "a")
    # As if two threads had taken a number each for a value that only one of them could add.
    next(fold._next_numbers["k"])
    assert [fold("k", value) for value in ("b", "b", "c", "a")] == ["other", "other", "other", "a"]


def test_closed_metrics_keep_counts_without_gauges() -> None:
    rig = Rig()
    rig.tell(granted(ticket()))
    rig.telemetry.close()
    rig.telemetry.close()
    names = set(rig.metrics())
    assert not names & {"loco.requests.waiting", "loco.scheduler.ticks", "loco.active", "loco.grants"}
    assert "loco.wait.duration" in names
    assert rig.snapshots == 0


def again(rig: Rig, snapshot: Callable[[], Snapshot]) -> Telemetry:
    return Telemetry.from_providers(
        ProcessState(snapshot, list),
        tracer_provider=rig.tracer_provider,
        meter_provider=rig.meter_provider,
        clock=rig.clock,
        wall=rig.clock.wall,
    )


def test_new_runtime_takes_over_the_gauges() -> None:
    # OpenTelemetry ignores the callbacks of a second instrument of the same name.
    rig = Rig()
    rig.telemetry.close()
    busy = standing().resources[0]._replace(tick=999)
    again(rig, lambda: Snapshot(0.0, (busy,)))
    assert rig.points("loco.scheduler.ticks") == {("llm_api",): 999}


def test_late_close_of_the_old_runtime_keeps_new_gauges() -> None:
    rig = Rig()
    again(rig, standing)
    rig.telemetry.close()
    assert rig.points("loco.requests.active")


def test_failed_snapshot_is_logged_once_and_retried(caplog: pytest.LogCaptureFixture) -> None:
    broken = True

    def snapshot() -> Snapshot:
        if broken:
            raise RuntimeError
        return standing()

    rig = Rig(snapshot=snapshot)
    with caplog.at_level(logging.INFO):
        assert rig.points("loco.requests.active") == {}
        assert rig.points("loco.active")
    assert len(caplog.records) == 1
    broken = False
    assert rig.points("loco.requests.active")


def test_reported_values_are_cumulative_in_any_order() -> None:
    rig = Rig()
    seen = []
    for _ in range(3):
        rig.tell(waiting(ticket()), granted(ticket()))
        seen.append(rig.points("loco.grants")["score", "llm_api"])
    assert [later - earlier for earlier, later in pairwise(seen)] == [1, 1]


def test_budget_gauges_have_units_and_decisions_start_at_zero() -> None:
    rig = Rig()
    assert rig.points("loco.budget.limit") == {("analyst", "day", "agent", "ledger"): 5.0}
    assert rig.points("loco.budget.spent") == {("analyst", "day", "agent", "ledger"): 4.0}
    assert rig.points("loco.budget.reserved") == {("analyst", "day", "agent", "ledger"): 0.25}
    assert rig.points("loco.budget.weight.limit") == {("*", "total", "all", "ledger"): 100.0}
    assert rig.points("loco.budget.weight.spent") == {("*", "total", "all", "ledger"): 7.5}
    assert rig.points("loco.budget.decisions") == {
        ("downgrade", "analyst", "day", "agent", "usd"): 0,
        ("reject", "analyst", "day", "agent", "usd"): 0,
        ("reject", "*", "total", "all", "weight"): 0,
        ("reject", "other", "total", "run", "usd"): 0,
    }
    rig.tell(BudgetExceeded(994.0, ticket(), Action.DOWNGRADE, (DAILY,), "gpt-4o-mini"))
    assert rig.points("loco.budget.decisions")["downgrade", "analyst", "day", "agent", "usd"] == 1


def test_charges_outlast_the_period_and_start_at_zero() -> None:
    rig = Rig()
    assert rig.points("loco.budget.charged") == {("analyst", "day", "agent"): 9.0}
    assert rig.points("loco.budget.weight.charged") == {("*", "total", "all"): 0}
    assert rig.points("loco.budget.reset.timestamp") == {("analyst", "day", "agent", "ledger", "usd"): 90_000.0}


def test_first_submit_starts_all_counters_of_the_call_at_zero() -> None:
    rig = Rig()
    who = ticket(provider="openai", model="gpt-4o", tenant="acme")
    rig.tell(Submitted(990.0, who))
    assert rig.points("loco.acquire.requests") == {("analyst", outcome.value, "llm_api"): 0 for outcome in Outcome}
    assert rig.points("loco.spend") == {("openai", "gpt-4o", "analyst", "acme"): 0}
    assert rig.points("loco.tokens") == {("openai", "gpt-4o", kind, "analyst"): 0 for kind in ("input", "output")}
    assert rig.points("loco.throttles") == {
        ("429", "openai", "llm_api", "load"): 0,
        ("503", "openai", "llm_api", "load"): 0,
        ("529", "openai", "llm_api", "load"): 0,
        ("timeout", "openai", "llm_api", "timeout"): 0,
        ("spend_limit", "openai", "llm_api", "spend"): 0,
    }
    rig.tell(throttled(who), spent(who), granted(who))
    assert len(rig.points("loco.throttles")) == 5
    assert len(rig.points("loco.spend")) == 1
    assert len(rig.points("loco.acquire.requests")) == len(Outcome)


def test_slot_of_the_program_starts_no_counter_of_a_provider() -> None:
    rig = Rig()
    rig.tell(Submitted(990.0, ticket()))
    assert rig.points("loco.throttles") == rig.points("loco.spend") == rig.points("loco.tokens") == {}


def test_spending_of_a_cheaper_model_starts_at_zero() -> None:
    rig = Rig()
    who = ticket(provider="openai", model="gpt-4o")
    rig.tell(BudgetExceeded(994.0, who, Action.DOWNGRADE, (DAILY,), "gpt-4o-mini"))
    assert rig.points("loco.spend") == {("openai", "gpt-4o-mini", "analyst", "unknown"): 0}


def test_points_stay_below_the_limit_and_their_sum_is_right() -> None:
    rig = Rig()
    for agent in range(200):
        for model in range(6):
            who = ticket(f"agent-{agent}", provider="openai", model=f"model-{model}", tenant=f"tenant-{agent}")
            rig.tell(Submitted(990.0, who), granted(who), spent(who))
    metrics = rig.metrics()
    for name, metric in metrics.items():
        points = metric.data.data_points
        assert len(points) <= POINT_LIMIT, name
        assert not [point for point in points if "otel.metric.overflow" in (point.attributes or {})], name
    tokens = rig.points("loco.tokens")
    assert sum(tokens.values()) == 200 * 6 * 120
    # The first agents keep their own, and the rest keeps the other attributes.
    assert tokens["openai", "model-5", "input", "agent-0"] == 100
    assert tokens["openai", "model-5", "output", "other"] > 20
    assert sum(rig.points("loco.spend").values()) == pytest.approx(200 * 6 * 0.0025)


def test_points_of_histograms_and_gauges_are_limited_too() -> None:
    agents = tuple(AgentSnapshot(f"agent-{n}", 1, 0, 0, 0, 0.0, None) for n in range(150))
    resources = tuple(ResourceSnapshot(f"r-{n}", "load", 1, 0, 0, 0, 0.0, None, agents) for n in range(10))
    rig = Rig(snapshot=lambda: Snapshot(0.0, resources))
    for agent in range(150):
        for resource in range(10):
            rig.tell(granted(ticket(f"agent-{agent}", resources=(f"r-{resource}",))))
    for _ in range(2):
        for name in ("loco.requests.waiting", "loco.wait.duration"):
            points = rig.points(name)
            assert len(points) <= POINT_LIMIT
            assert sum(points.values()) == 1500


def test_open_values_are_folded_when_agents_are_not_enough() -> None:
    limit = PointLimit(catalogue.SPENT, 100)
    kept = {limit.limit_values((f"a-{n}", f"t-{n}", f"p-{n}", f"m-{n}")) for n in range(200)}
    assert len(kept) <= 100
    assert ("a-79", "t-79", "p-79", "m-79") in kept
    assert ("other", "t-80", "p-80", "m-80") in kept
    assert ("other", "other", "other", "other") in kept


def test_folded_address_has_no_port() -> None:
    limit = PointLimit(catalogue.DURATION, 1)
    attributes = {"server.address": "host", "server.port": 443, "gen_ai.operation.name": "chat"}
    assert limit.get_attributes(limit.order_values(attributes)) == {
        "server.address": "other",
        "gen_ai.operation.name": "chat",
    }
