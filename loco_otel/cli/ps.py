"""The rows of `loco-otel ps`, from the page of a running process."""

from collections.abc import Mapping
from itertools import chain

from loco_otel._introspection.tables import AgentRow, ResourceRows
from loco_otel.cli.metrics_page import MetricsPage, PageError, fetch_page
from loco_otel.cli.run_rows import RunRow, build_run_rows
from loco_otel.events import GateCause


def fetch_resources(url: str) -> list[ResourceRows]:
    """Return the scheduler's state in a running process.

    Raises:
        PageError: there is no answer, or the answer is not a Prometheus page with resources of loco-otel.

    """
    return build_rows(fetch_page(url))


def fetch_runs(url: str) -> list[RunRow]:
    """Return the runs of a running process, by workflow and priority.

    Raises:
        PageError: there is no answer, or the answer is not a Prometheus page with loco-otel's metrics.

    """
    return build_run_rows(chain.from_iterable(fetch_page(url).series.values()))


def build_rows(page: MetricsPage) -> list[ResourceRows]:
    """Return the rows of a page.

    Raises:
        PageError: the page has no resource.

    """
    agents: dict[tuple[str, str], dict[str, float]] = {}
    resources: dict[str, dict[str, float]] = {}
    pauses: dict[str, tuple[float, str]] = {}
    for sample in chain.from_iterable(page.series.values()):
        resource, agent = sample.labels.get("loco_resource_name"), sample.labels.get("loco_agent_id")
        if resource is None:
            continue
        values = resources.setdefault(resource, {})
        if sample.labels.get("loco_gate_cause") == GateCause.BACKOFF:
            pause = sample.value, sample.labels.get("loco_gate_header", "")
            pauses[resource] = max(pause, pauses.get(resource, (0.0, "")))
        if agent is not None:
            values = agents.setdefault((resource, agent), {})
        values[sample.name.removesuffix("_total")] = sample.value
    if not resources:
        raise PageError(f"{page.url} has no resource of loco-otel yet: has a call been made there?")
    return [_build_resource_rows(name, values, agents, pauses.get(name)) for name, values in sorted(resources.items())]


def _build_resource_rows(
    name: str,
    values: Mapping[str, float],
    agents: Mapping[tuple[str, str], Mapping[str, float]],
    pause: tuple[float, str] | None,
) -> ResourceRows:
    mine = {agent: own for (resource, agent), own in agents.items() if resource == name}
    compete = [agent for agent, own in mine.items() if own.get("loco_requests_waiting") and "loco_load_score" in own]
    compete.sort(
        key=lambda agent: (
            -mine[agent]["loco_load_score"],
            -mine[agent].get("loco_queue_age", 0.0),
            -mine[agent].get("loco_queue_wait_seconds", 0.0),
        )
    )
    ranks = {agent: place for place, agent in enumerate(compete, 1)}
    rows = tuple(
        AgentRow(
            agent=agent,
            holding=int(own.get("loco_requests_active", 0)),
            waiting=int(own.get("loco_requests_waiting", 0)),
            oldest_wait=own.get("loco_queue_wait_seconds", 0.0),
            q=own.get("loco_queue_weight", 0.0),
            d=int(own.get("loco_queue_age", 0)),
            score=own.get("loco_load_score") if agent in ranks else None,
            rank=ranks.get(agent),
        )
        for agent, own in mine.items()
        if "loco_requests_active" in own
    )
    capacity = values.get("loco_resource_capacity")
    return ResourceRows(
        resource=name,
        policy=None,
        capacity=None if capacity is None else int(capacity),
        holding=sum(row.holding for row in rows),
        waiting=sum(row.waiting for row in rows),
        tick=int(values.get("loco_scheduler_ticks", 0)),
        alpha=values.get("loco_scheduler_alpha", 0.0),
        agents=rows,
        pause=0.0 if pause is None else pause[0],
        pause_header=None if pause is None else pause[1] or None,
    )
