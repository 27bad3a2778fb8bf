"""What may be wrong with the engine and the ledger that processes share."""

from collections.abc import Iterator

from loco_otel._config.engine_rules import MEMORY, hide_password
from loco_otel._config.settings import Settings
from loco_otel._engine.redis.inspection import ServerFacts, read_facts
from loco_otel.events import DEFAULT_RESOURCE

_CONNECT_TIMEOUT = 2.0


def check_engine(settings: Settings | None) -> Iterator[str]:
    """Yield a warning for each fault of the engine that the settings name; none without one."""
    if settings is None or settings.engine == MEMORY:
        return
    where = f"the shared engine {hide_password(settings.engine)}"
    try:
        facts = read_facts(settings.engine, settings.engine_namespace, _CONNECT_TIMEOUT)
    except ImportError:
        yield f"{where} needs the package redis: pip install 'loco-otel[redis]'"
    except Exception as error:
        yield (
            f"{where} does not answer ({error or type(error).__name__}):"
            f" LOCO_ENGINE_ON_ERROR={settings.engine_on_error} holds until it does"
        )
    else:
        yield from _check_facts(where, facts, settings)


def check_ledger(settings: Settings | None) -> Iterator[str]:
    """Yield a warning for each fault of the server that has the ledger; none without budgets or such a server."""
    if settings is None or settings.ledger_url is None or not (settings.limits or settings.ledger):
        return
    where = f"the ledger {hide_password(settings.ledger_url)}"
    try:
        facts = read_facts(settings.ledger_url, settings.engine_namespace, _CONNECT_TIMEOUT)
    except Exception as error:
        yield (
            f"{where} does not answer ({error or type(error).__name__}):"
            f" LOCO_LEDGER_ON_ERROR={settings.ledger_on_error} holds until it does"
        )
        return
    if settings.ledger_url != settings.engine:
        yield from _check_server(where, facts, settings)
    if not facts.is_logged:
        yield f"{where} has no append-only file: it forgets what is spent when it restarts, so set appendonly yes"


def _check_facts(where: str, facts: ServerFacts, settings: Settings) -> Iterator[str]:
    yield from _check_server(where, facts, settings)
    capacity = facts.capacities.get(DEFAULT_RESOURCE)
    if capacity is not None and settings.capacity is None:
        yield (
            f"{where} has the capacity {capacity}, which another process stated, while this one adapts to each"
            " provider's host: they share nothing, so give all processes the same LOCO_CAPACITY"
        )
    elif capacity is not None and capacity != settings.capacity:
        yield (
            f"{where} has the capacity {capacity}, which another process stated, and a process started now sets"
            f" it to {settings.capacity} for all: give all processes the same LOCO_CAPACITY"
        )
    for rule in settings.resources:
        stated = facts.capacities.get(rule.name, rule.capacity)
        if stated != rule.capacity:
            yield (
                f"{where} has the capacity {_describe(stated)} of {rule.name}, which another process stated, and a"
                f" process started now sets it to {_describe(rule.capacity)} for all: give all processes the same"
                " [[resources]]"
            )


def _describe(capacity: int | None) -> str:
    return "auto" if capacity is None else str(capacity)


def _check_server(where: str, facts: ServerFacts, settings: Settings) -> Iterator[str]:
    if not facts.is_supported:
        yield f"{where} is {facts.version}: Redis 7.0 or Valkey 7.2 is the oldest that is supported"
    if facts.eviction.startswith("allkeys"):
        yield f"{where} has maxmemory-policy {facts.eviction}, which could evict half of a state: set noeviction"
    if facts.seconds > settings.engine_timeout / 2:
        yield (
            f"{where} took {facts.seconds * 1000:.0f} ms to answer, and counts as away after LOCO_ENGINE_TIMEOUT="
            f"{settings.engine_timeout:g} s"
        )
