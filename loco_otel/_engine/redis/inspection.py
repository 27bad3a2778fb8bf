"""Reads the state of a shared engine, for the command line: nothing is changed."""

import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis.batches import LINE_SEPARATOR
from loco_otel._engine.redis.client import Client
from loco_otel._engine.redis.script import make_base_key

_STATES = {0: "waiting", 1: "holding", 2: "paused", 3: "sharing"}
_MIN_VERSIONS = {"redis": (7, 0), "valkey": (7, 2)}


class SharedTicket(NamedTuple):
    """One request of any process."""

    resource: str
    """Several are joined with +, which no name has."""
    agent: str
    state: str
    weight: int
    """Milli-weights."""
    host: str
    pid: int
    id: str


class SharedState(NamedTuple):
    """All that the processes of one namespace have."""

    capacities: dict[str, int | None]
    """None is unlimited."""
    tickets: tuple[SharedTicket, ...]
    processes: int


class ServerFacts(NamedTuple):
    """What `loco-otel doctor` checks of a server."""

    version: str
    is_supported: bool
    eviction: str
    seconds: float
    """Of one round trip."""
    is_logged: bool
    """Whether it writes an append-only file, from which it restores its state after a restart."""
    capacities: Mapping[str, int | None]
    """The capacities in force, by resource; None adapts to the provider."""


def read_state(url: str, namespace: str, timeout: float) -> SharedState:
    """Return the tickets of all processes, holders first. Those of processes that have lost their leases are omitted.

    Raises:
        Exception: the server cannot be reached.

    """
    with Client(EngineAddress.parse(url), timeout) as client:
        base = make_base_key(namespace)
        epoch = client.call("HGET", f"{base}:config", "epoch")
        if epoch is None:
            return SharedState({}, (), 0)
        prefix = f"{base}:{epoch}:"
        seconds, micros = client.call("TIME")
        now = int(seconds) * 1000 + int(micros) // 1000
        alive = set(client.call("ZRANGEBYSCORE", f"{prefix}processes", now, "+inf"))
        hosts = {
            owner: host for owner, host in _pair(client.call("HGETALL", f"{prefix}hosts")).items() if owner in alive
        }
        found = _pair(client.call("HGETALL", f"{prefix}tickets"))
        capacities = {
            name: _parse_limit(client.call("HGET", f"{prefix}line:{name}", "limit"))
            for name in sorted(client.call("ZRANGE", f"{prefix}lines", 0, -1))
        }
    records = ((ticket_id, json.loads(record)) for ticket_id, record in found.items())
    tickets = [_parse_ticket(ticket_id, record, hosts) for ticket_id, record in records if record[3] in alive]
    tickets.sort(key=lambda ticket: (ticket.resource, ticket.state == "waiting", ticket.agent, ticket.id))
    return SharedState(capacities, tuple(tickets), len(alive))


def read_facts(url: str, namespace: str, timeout: float) -> ServerFacts:
    """Return version, eviction policy, latency, and the capacity in force.

    Raises:
        Exception: the server cannot be reached.

    """
    with Client(EngineAddress.parse(url), timeout) as client:
        base = make_base_key(namespace)
        epoch = client.call("HGET", f"{base}:config", "epoch")  # of a cluster, the node that has it is examined
        begin = time.monotonic()
        client.call("PING")
        seconds = time.monotonic() - begin
        lines = [line.partition(":") for line in client.call("INFO").splitlines()]
        info = {name: value for name, _, value in lines}
        names = client.call("ZRANGE", f"{base}:{epoch}:lines", 0, -1) if epoch else ()
        limits = {name: client.call("HMGET", f"{base}:{epoch}:line:{name}", "limit", "auto") for name in names}
    server = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{server}_version", "0")
    numbers = tuple(int(part) for part in version.split(".")[:2])
    return ServerFacts(
        f"{server} {version}",
        numbers >= _MIN_VERSIONS[server],
        info.get("maxmemory_policy", ""),
        seconds,
        info.get("aof_enabled", "1") == "1",
        {name: None if auto else _parse_limit(limit) for name, (limit, auto) in limits.items() if limit is not None},
    )


def _parse_limit(text: str) -> int | None:
    return None if text == "inf" else int(text)


def _pair(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _parse_ticket(ticket_id: str, record: list[Any], hosts: dict[str, str]) -> SharedTicket:
    line, agent, weight, owner, *_ = record
    host, _, pid = hosts.get(owner, "unknown 0").rpartition(" ")
    # Tenant and agent are one name on the server.
    resource, name = line.replace(LINE_SEPARATOR, "+"), agent.replace("\x1f", "/")
    return SharedTicket(resource, name, _STATES[record[6]], weight, host, int(pid), ticket_id)
