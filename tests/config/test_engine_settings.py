"""The settings of the engine that processes share, and those that it does not support."""

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from loco_otel._budgets.ledger_client import open_ledger
from loco_otel._budgets.memory_ledger import MemoryLedger
from loco_otel._budgets.redis.ledger import RedisLedger
from loco_otel._budgets.sqlite_ledger import SqliteLedger
from loco_otel._config.settings import Settings
from loco_otel._core.priority_order import PriorityRule
from loco_otel._runtime.router import Router
from loco_otel._runtime.shared_statements import make_discovered, make_statements
from loco_otel.errors import ConfigurationError
from loco_otel.events import DEFAULT_RESOURCE, Priority

ENGINE = {"LOCO_ENGINE": "redis://:secret@cache:6379/1", "LOCO_CAPACITY": "4"}


def test_engine_is_read_and_its_password_is_not_shown() -> None:
    settings = Settings.load(ENGINE)
    assert settings.engine == "redis://:secret@cache:6379/1"
    assert "secret" not in repr(settings)
    assert ("engine", "redis://:***@cache:6379/1") in [(row.key, row.value) for row in settings.rows()]


@pytest.mark.parametrize(
    "url",
    [
        "rediss://cache", "valkey://cache", "redis://user:pw@cache:1/2", "redis+sentinel://one:26379,two/mymaster/1",
        "MEMORY",
    ],
)  # fmt: skip
def test_engine_takes_these_urls(url: str) -> None:
    assert Settings.load({**ENGINE, "LOCO_ENGINE": url}).engine == (url if "://" in url else "memory")


@pytest.mark.parametrize("url", ["http://u:secret@cache", "redis://:secret@", "redis+sentinel://u:secret@one:1", "yes"])
def test_engine_rejects_others_without_their_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"LOCO_ENGINE=.*: must be memory, or a URL redis://") as raised:
        Settings.load({**ENGINE, "LOCO_ENGINE": url})
    assert "secret" not in str(raised.value)


def test_engine_receives_the_order_of_runs() -> None:
    runs = {"LOCO_QUEUE_BY": "run", "LOCO_RUN_IDLE_TIMEOUT": "60"}
    (las,) = make_statements(Settings.load({**ENGINE, **runs, "LOCO_POLICY": "las"})).values()
    assert (las.by_run, las.half_life, las.run_idle_timeout) == (True, 600.0, 60.0)
    (las,) = make_statements(Settings.load({**ENGINE, "LOCO_POLICY": "las", "LOCO_HALF_LIFE": "none"})).values()
    assert (las.by_run, las.half_life) == (False, inf)
    (fair,) = make_statements(Settings.load({**ENGINE, **runs, "LOCO_POLICY": "fair"})).values()
    assert (fair.by_run, fair.half_life, fair.run_idle_timeout) == (True, inf, inf), "they are of las alone"


RESOURCES = """
[[resources]]
name = "tier-1"
provider = "openai"
capacity = 3
tokens_per_minute = 30000
[[resources]]
name = "local"
provider = "ollama"
capacity_max = 5
requests_per_minute = 7
[[resources]]
name = "gpu"
capacity = 0
"""


def test_engine_receives_resources(config: Callable[[str], dict[str, str]]) -> None:
    settings = Settings.load({**config(RESOURCES), **ENGINE, "LOCO_POLICY": "fifo", "LOCO_REQUESTS_PER_MINUTE": "60"})
    statements = make_statements(settings)
    assert {it.policy for it in statements.values()} == {"fifo"}
    limits = {
        name: (it.capacity, it.capacity_max, it.requests_per_minute, it.tokens_per_minute)
        for name, it in statements.items()
    }
    assert limits == {
        DEFAULT_RESOURCE: (4, inf, 60, None),
        "tier-1": (3, inf, None, 30_000),
        "local": (None, 5, 7, None),
        "gpu": (0, inf, None, None),
    }
    adaptive = Settings.load({**config(RESOURCES), "LOCO_ENGINE": ENGINE["LOCO_ENGINE"]})
    assert list(make_statements(adaptive)) == ["tier-1", "local", "gpu"]


def test_engine_takes_resources_that_one_call_needs(config: Callable[[str], dict[str, str]]) -> None:
    settings = Settings.load({**config(RESOURCES + "host = '*.internal'"), **ENGINE})
    router = Router(settings.resources, has_fixed_capacity=True)
    assert router.route_call("openai", "model", "one.internal") == ("gpu", "tier-1")


def test_engine_receives_the_shares_of_tenants(config: Callable[[str], dict[str, str]]) -> None:
    settings = Settings.load({**config("[tenant_shares]\nacme = 2.5"), **ENGINE})
    (statement,) = make_statements(settings).values()
    assert statement.tenant_shares == {"acme": 2500}


def test_engine_receives_the_rules_of_classes(config: Callable[[str], dict[str, str]]) -> None:
    settings = Settings.load({**config("[priority.background]\nceiling = 3\nstrict = true"), **ENGINE})
    (statement,) = make_statements(settings).values()
    assert statement.priorities[Priority.BACKGROUND] == PriorityRule(1000, is_strict=True, slots=3)


def test_engine_receives_a_limit_that_adapts() -> None:
    settings = Settings.load({"LOCO_ENGINE": ENGINE["LOCO_ENGINE"], "LOCO_CAPACITY_MAX": "20"})
    discovered = make_discovered(settings)
    assert make_statements(settings) == {}
    assert discovered is not None
    assert (discovered.capacity, discovered.capacity_max) == (None, 20)
    assert make_discovered(Settings.load(ENGINE)) is None


def test_engine_refuses_to_observe() -> None:
    with pytest.raises(ConfigurationError, match="LOCO_MODE=observe: limits nothing, while the engine limits"):
        Settings.load({**ENGINE, "LOCO_MODE": "observe"})
    with pytest.raises(ConfigurationError, match="mode=observe: limits nothing"):
        Settings.load(ENGINE).changed(mode="observe")


@pytest.mark.parametrize("capacity", [0, 4])
def test_engine_receives_the_capacity_that_is_set(capacity: int) -> None:
    settings = Settings.load({**ENGINE, "LOCO_CAPACITY": str(capacity)})
    assert make_statements(settings)[DEFAULT_RESOURCE].capacity == capacity


def test_engine_receives_the_rates_that_are_set() -> None:
    settings = Settings.load({**ENGINE, "LOCO_REQUESTS_PER_MINUTE": "60", "LOCO_TOKENS_PER_MINUTE": "2.5"})
    statement = make_statements(settings)[DEFAULT_RESOURCE]
    assert (statement.requests_per_minute, statement.tokens_per_minute) == (60, 2.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("LOCO_ENGINE_TTL", "0.5"), ("LOCO_ENGINE_TTL", "61"), ("LOCO_ENGINE_TIMEOUT", "0"),
        ("LOCO_ENGINE_NAMESPACE", "a{b}"), ("LOCO_ENGINE_ON_ERROR", "ignore"),
    ],
)  # fmt: skip
def test_engine_settings_have_bounds(key: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key}="):
        Settings.load({**ENGINE, key: value})


# The ledger.


def test_budgets_are_on_the_engine_unless_a_ledger_is_set(tmp_path: Path) -> None:
    path = str(tmp_path / "ledger.db")
    expected = [
        ({}, MemoryLedger),
        (ENGINE, RedisLedger),
        ({"LOCO_LEDGER": "rediss://:secret@other"}, RedisLedger),
        ({**ENGINE, "LOCO_LEDGER": path}, SqliteLedger),
        ({**ENGINE, "LOCO_LEDGER": "none"}, MemoryLedger),
    ]
    for environ, kind in expected:
        ledger = open_ledger(Settings.load(environ))
        assert type(ledger) is kind, environ
        ledger.close()
    assert Settings.load({**ENGINE, "LOCO_LEDGER": "valkey://other"}).ledger_url == "valkey://other"
    assert Settings.load({"LOCO_LEDGER": path}).ledger_url is None


@pytest.mark.parametrize("name", ["password", "ssl_password"])
def test_password_in_the_query_of_a_url_is_not_shown(name: str) -> None:
    settings = Settings.load({"LOCO_LEDGER": f"rediss://cache?{name}=a@secret&username=me"})
    assert "secret" not in repr(settings)
    assert ("ledger", f"rediss://cache?{name}=***&username=me") in [(row.key, row.value) for row in settings.rows()]


def test_password_of_a_ledger_is_not_shown() -> None:
    settings = Settings.load({"LOCO_LEDGER": "redis://user:secret@cache"})
    assert "secret" not in repr(settings)
    assert ("ledger", "redis://user:***@cache") in [(row.key, row.value) for row in settings.rows()]
    with pytest.raises(
        ConfigurationError, match=r"LOCO_LEDGER=http://u:\*\*\*@cache: must be none, the path"
    ) as raised:
        Settings.load({"LOCO_LEDGER": "http://u:secret@cache"})
    assert "secret" not in str(raised.value)
