"""Reads the Prometheus page of a running process for `loco-otel ps`."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from ipaddress import ip_address
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families

from loco_otel._introspection.tables import AgentRow, ResourceRows
from loco_otel.cli.run_rows import RunRow, build_run_rows
from loco_otel.errors import LocoError
from loco_otel.events import GateCause

_TIMEOUT = 5.0
_MAX_PAGE_BYTES = 50_000_000


class PsError(LocoError):
    """A process can't be read. The message names the cause."""


def get_default_url(environ: Mapping[str, str]) -> str:
    """Return the address of OpenTelemetry's Prometheus exporter, from its environment variables."""
    host = environ.get("OTEL_EXPORTER_PROMETHEUS_HOST") or "localhost"
    port = environ.get("OTEL_EXPORTER_PROMETHEUS_PORT") or "9464"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def fetch_resources(url: str) -> list[ResourceRows]:
    """Return the scheduler's state in a running process.

    Raises:
        PsError: there is no answer, or the answer is not a Prometheus page with loco-otel's metrics.

    """
    return parse_page(_fetch_page(url), url)


def fetch_runs(url: str) -> list[RunRow]:
    """Return the runs of a running process, by workflow and priority.

    Raises:
        PsError: there is no answer, or the answer is not a Prometheus page with loco-otel's metrics.

    """
    page = _fetch_page(url)
    parse_page(page, url)  # raises where there is nothing of loco-otel
    return build_run_rows(sample for family in text_string_to_metric_families(page) for sample in family.samples)


def _fetch_page(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise PsError(f"{url} is no address: it begins with http:// or https://")
    try:
        # A proxy cannot reach this machine's own addresses, even if `http_proxy` has no exception for them.
        handlers = [urllib.request.ProxyHandler({})] if _is_local_host(urlsplit(url).hostname) else []
        with urllib.request.build_opener(*handlers).open(url, timeout=_TIMEOUT) as answer:
            return str(answer.read(_MAX_PAGE_BYTES).decode())
    except (OSError, ValueError, HTTPException) as error:
        raise PsError(
            f"{url} does not answer: {' '.join(str(getattr(error, 'reason', None) or error).split())}"
        ) from error


def _is_local_host(host: str | None) -> bool:
    try:
        address = ip_address(host or "")
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def parse_page(page: str, url: str) -> list[ResourceRows]:
    """Return the rows of a Prometheus page.

    Raises:
        PsError: the page is not in Prometheus' format, or has no metrics of loco-otel.

    """
    agents: dict[tuple[str, str], dict[str, float]] = {}
    resources: dict[str, dict[str, float]] = {}
    pauses: dict[str, tuple[float, str]] = {}
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                resource, agent = sample.labels.get("loco_resource_name"), sample.labels.get("loco_agent_id")
                if not sample.name.startswith("loco_") or resource is None:
                    continue
                values = resources.setdefault(resource, {})
                if sample.labels.get("loco_gate_cause") == GateCause.BACKOFF:
                    pause = sample.value, sample.labels.get("loco_gate_header", "")
                    pauses[resource] = max(pause, pauses.get(resource, (0.0, "")))
                if agent is not None:
                    values = agents.setdefault((resource, agent), {})
                values[sample.name.removesuffix("_total")] = sample.value
    except ValueError as error:
        raise PsError(f"{url} is no page of Prometheus: {error}") from error
    if not resources:
        raise PsError(f"{url} tells nothing of loco-otel: is it installed there, and are metrics on?")
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
