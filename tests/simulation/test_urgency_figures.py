"""What classes of urgency and `las` are for, in figures: one simulation each, and twenty at night."""

from effort import scale

from loco_otel.simulation import compare_runs, load_scenario


def test_interactive_runs_beside_a_batch_are_fast() -> None:
    """Their p95 is at most half of that under `fifo`, and the batch keeps 90 % of its throughput."""
    scenario = load_scenario("interactive_background").model_copy(update={"ticks": 1000})
    fifo, *others = compare_runs(scenario, ["fifo", "load", "fair:run"], range(1, 1 + scale(1)))
    for result in others:
        kinds = {kind.kind: (kind, before) for kind, before in zip(result.kinds, fifo.kinds, strict=True)}
        for name in ("interactive", "urgent"):
            now, before = kinds[name]
            assert now.p95 <= 0.5 * before.p95, result.policy
        now, before = kinds["background"]
        assert now.finished >= 0.9 * before.finished, result.policy


def test_mean_slowdown_under_las_is_small_at_load_0_9() -> None:
    scenario = load_scenario("runs")
    assert scenario.load == 0.9
    (result,) = compare_runs(scenario, ["las:run"], range(scale(1)))
    assert result.all.slowdown <= 1.6


def test_no_kind_of_run_pays_much_for_las_at_load_0_7() -> None:
    scenario = load_scenario("runs").model_copy(update={"load": 0.7})
    fifo, las = compare_runs(scenario, ["fifo", "las:run"], range(scale(2)))
    for before, now in zip(fifo.kinds, las.kinds, strict=True):
        assert now.p99 <= 1.5 * before.p99, now.kind
        assert now.slowdown_p99 <= 1.5 * before.slowdown_p99, now.kind
