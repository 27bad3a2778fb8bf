"""Settings in the file that LOCO_CONFIG names."""

from pathlib import Path

import pytest
from setting_checks import OPENTELEMETRY_KEYS, load_fault

from loco_otel._config.budget_rules import Price
from loco_otel._config.priority_rules import PriorityTable
from loco_otel._config.resource_rules import ResourceRule
from loco_otel._config.settings import Settings
from loco_otel.events import Priority
from loco_otel.money import Action, Budget, Period, Scope, Unit


def test_file_sets_every_key(config):
    environ = config("""
        enabled = false
        mode = "observe"
        capacity = 2
        policy = "fifo"
        queue_by = "run"
        half_life = 30
        run_idle_timeout = 60
        optimize_for = "throughput"
        auto_tune = true
        log = "pretty"
        max_wait_ticks = 7
        max_waiters = 8
        acquire_timeout = 1.5
        max_hold = 60
        stream_usage = true
        agent_id = "batch"
        metric_values = 50
        http_hosts = ["llm.example", "localhost:8000"]
        capacity_max = 100
        engine = "memory"
        engine_namespace = "team"
        engine_ttl = 10
        engine_timeout = 0.5
        engine_on_error = "closed"
        requests_per_minute = 600
        tokens_per_minute = 90_000.5

        budget_period = "day"
        budget_on_exceeded = "alert"
        budget_zone = "Europe/Berlin"
        downgrade_ends = "alert"
        ledger = "spent.db"
        ledger_on_error = "open"
        count_spend = true
        stop_file = "stop.txt"

        [run_limits]
        usd = 0.5
        seconds = 600

        [[budgets]]
        limit = 5

        [downgrade]
        "gpt-4o" = ["gpt-4o-mini", "gpt-4.1-nano"]

        [[resources]]
        name = "gpu"
        capacity = 2

        [[resources]]
        name = "tier-1"
        provider = "openai"
        model = "gpt-*"
        host = "*.openai.com"
        capacity_max = 50
        requests_per_minute = 500
        tokens_per_minute = 30_000

        [prices."our-*"]
        input = 0.5
        output = 2
        cache_read = 0.05

        [providers]
        "llm.harbour.example" = "openrouter"

        [weights]
        "gpt-4o" = 4
        "claude-*" = 2.5
        [shares]
        chat = 4
        [tenant_shares]
        acme = 0.5
        [priority.interactive]
        strict = true
        [priority.background]
        share = 0.5
        ceiling = "50%"
    """)
    settings = Settings.load(environ)

    assert (settings.enabled, settings.capacity, settings.policy) == (False, 2, "fifo")
    assert (settings.optimize_for, settings.alpha) == ("throughput", 0.5)
    assert (settings.max_wait_ticks, settings.max_waiters, settings.metric_values) == (7, 8, 50)
    assert settings.http_hosts == ("llm.example", "localhost:8000")
    assert (settings.acquire_timeout, settings.max_hold, settings.agent_id) == (1.5, 60.0, "batch")
    assert (settings.stream_usage, settings.auto_tune, settings.log) == (True, True, "pretty")
    assert list(settings.weights.items()) == [("gpt-4o", 4.0), ("claude-*", 2.5)]
    assert (settings.capacity_max, settings.requests_per_minute, settings.tokens_per_minute) == (100, 600, 90_000.5)
    assert settings.prices == {"our-*": Price(input=0.5, output=2, cache_read=0.05)}
    assert settings.providers == {"llm.harbour.example": "openrouter"}
    assert settings.limits == (
        Budget(Scope.AGENT, None, 5_000_000, Unit.USD, Period.DAY, Action.ALERT),
        Budget(Scope.RUN, None, 500_000, thresholds=()),
    )
    assert (settings.mode, settings.stop_file) == ("observe", str(Path("stop.txt").absolute()))
    assert settings.downgrade == {"gpt-4o": ("gpt-4o-mini", "gpt-4.1-nano")}
    assert (settings.budget_zone, settings.downgrade_ends) == ("Europe/Berlin", "alert")
    assert (settings.ledger_on_error, settings.count_spend) == ("open", True)
    assert settings.ledger == str(Path("spent.db").absolute())
    gpu, tier = settings.resources
    assert gpu == ResourceRule(name="gpu", capacity=2)
    assert (tier.name, tier.capacity, tier.capacity_max) == ("tier-1", None, 50)
    assert (tier.provider, tier.model, tier.host) == ("openai", "gpt-*", "*.openai.com")
    assert (tier.requests_per_minute, tier.tokens_per_minute) == (500, 30_000)
    assert (settings.shares, settings.tenant_shares) == ({"chat": 4.0}, {"acme": 0.5})
    assert (settings.queue_by, settings.half_life, settings.run_idle_timeout) == ("run", 30.0, 60.0)
    assert settings.priority == {
        Priority.INTERACTIVE: PriorityTable(strict=True),
        Priority.BACKGROUND: PriorityTable(share=0.5, ceiling=0.5),
    }
    ours = [row for row in settings.rows() if row.key not in OPENTELEMETRY_KEYS]
    assert {row.origin for row in ours} == {f"file {environ['LOCO_CONFIG']}"}


def test_file_accepts_auto_and_none(config):
    settings = Settings.load(config('capacity = "auto"\nacquire_timeout = "none"'))

    assert (settings.capacity, settings.acquire_timeout) == (None, None)


def test_environment_overrides_file_and_file_the_default(config):
    environ = {**config("capacity = 2\nmax_waiters = 5"), "LOCO_CAPACITY": "auto"}
    settings = Settings.load(environ)

    assert (settings.capacity, settings.max_waiters, settings.metric_values) == (None, 5, 200)
    assert settings.origin("capacity") == "LOCO_CAPACITY"
    assert settings.origin("max_waiters") == f"file {environ['LOCO_CONFIG']}"
    assert settings.origin("metric_values") == "default"


def test_overridden_value_is_not_validated(config):
    assert Settings.load({**config('capacity = "two"'), "LOCO_CAPACITY": "2"}).capacity == 2


PRICE = "a table with input and output, and perhaps cache_read and cache_write: USD per million tokens, from 0"
TABLES = "tables, each with a name of its own and what it limits"


PRIORITY_TABLE = (
    "interactive, normal or background, each a table with share (0.001 to 1000), ceiling (slots, a percentage such as"
    ' "75%", or "none") and strict (true or false)'
)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("capacity = -1", "capacity=-1 in {}: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("capacity = true", "capacity=true in {}: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("capacity = 1.5", "capacity=1.5 in {}: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("capacity = [2]", "capacity=[2] in {}: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("alpha = nan", "alpha=nan in {}: must be a number from 0 to 0.5"),
        ("alpha = false", "alpha=false in {}: must be a number from 0 to 0.5"),
        ("max_hold = inf", "max_hold=inf in {}: must be a number of seconds above 0"),
        ('policy = "random"', "policy=random in {}: must be load, fair, las or fifo"),
        ("policy = 1", "policy=1 in {}: must be load, fair, las or fifo"),
        ("optimize_for = []", "optimize_for=[] in {}: must be latency, balanced or throughput"),
        ("agent_id = 5", "agent_id=5 in {}: must be a name"),
        ('agent_id = " "', "agent_id=  in {}: must be a name"),
        (
            "weights = 3",
            "weights=3 in {}: must be a table of model names or globs, each with a number above 0",
        ),
        ("weights.gpt-4o = 0", "weights.gpt-4o=0 in {}: must be a number above 0"),
        ("weights.gpt-4o = -1.5", "weights.gpt-4o=-1.5 in {}: must be a number above 0"),
        ("weights.gpt-4o = nan", "weights.gpt-4o=nan in {}: must be a number above 0"),
        ("weights.gpt-4o = inf", "weights.gpt-4o=inf in {}: must be a number above 0"),
        ("weights.gpt-4o = 1e12", "weights.gpt-4o=1000000000000.0 in {}: must be at most 1000000000"),
        ("weights.gpt-4o = true", "weights.gpt-4o=true in {}: must be a number above 0"),
        ('weights."gpt-*" = "2"', "weights.gpt-*=2 in {}: must be a number above 0"),
        (
            "weights.gpt-4.1 = 2",
            "weights.gpt-4={{'1': 2}} in {}: must be a number above 0 (put a name with a dot in quotes)",
        ),
        ("shares = 2", "shares=2 in {}: must be a table of agents, each with a number from 0.001 to 1000"),
        ("shares.chat = 0", "shares.chat=0 in {}: must be a number from 0.001 to 1000"),
        ("shares.chat = 1001", "shares.chat=1001 in {}: must be a number from 0.001 to 1000"),
        ("shares.chat = nan", "shares.chat=nan in {}: must be a number from 0.001 to 1000"),
        ("shares.chat = true", "shares.chat=true in {}: must be a number from 0.001 to 1000"),
        (
            "providers = 'openai'",
            "providers=openai in {}: must be a table of hosts, globs or `host:port`, each with the name of a provider",
        ),
        ("providers.host = 3", "providers.host=3 in {}: must be the name of a provider"),
        (
            "tenant_shares = 'acme'",
            "tenant_shares=acme in {}: must be a table of tenants, each with a number from 0.001 to 1000",
        ),
        ("tenant_shares.acme = -1", "tenant_shares.acme=-1 in {}: must be a number from 0.001 to 1000"),
        ("priority.urgent.share = 2", "priority.urgent={{'share': 2}} in {}: must be " + PRIORITY_TABLE),
        ("priority.normal.share = 0", "priority.normal={{'share': 0}} in {}: must be " + PRIORITY_TABLE),
        ("priority.normal.ceiling = '0%'", "priority.normal={{'ceiling': '0%'}} in {}: must be " + PRIORITY_TABLE),
        ("capcity = 2", "capcity in {} is not a setting of loco-otel; did you mean capacity?"),
        ("Capacity = 2", "Capacity in {} is not a setting of loco-otel; did you mean capacity?"),
        ("LOCO_ALPHA = 0.1", "LOCO_ALPHA in {} is not a setting of loco-otel; did you mean alpha?"),
        ("service_name = 'x'", "service_name in {} is not a setting of loco-otel"),
        (
            "[resources.x]",
            "resources={{'x': {{}}}} in {}: must be tables, each with a name of its own and what it limits",
        ),
        ("resources = 4", "resources=4 in {}: must be tables, each with a name of its own and what it limits"),
        ("[[resources]]", "resources[1]={{}} in {}: must be a table with a name"),
        ("resources = [4]", "resources[1]=4 in {}: must be a table with a name"),
        (
            "[[resources]]\nname='a'\n[[resources]]\nname='b'\ncapacity=-1",
            "resources[2].capacity=-1 in {}: must be auto or a whole number of at least 0 (0 grants no slot)",
        ),
        (
            "[[resources]]\nname='a b'",
            "resources[1].name=a b in {}: must be a name without spaces, commas and +, other than llm_api",
        ),
        (
            "[[resources]]\nname='llm_api'",
            "resources[1].name=llm_api in {}: must be a name without spaces, commas and +, other than llm_api",
        ),
        (
            "[[resources]]\nname='a'\nmodell='x'",
            "resources[1].modell=x in {}: must be one of " + ", ".join(ResourceRule.model_fields),
        ),
        (
            "[[resources]]\nname='a'\nrequests_per_minute=nan",
            "resources[1].requests_per_minute=nan in {}: must be a number above 0",
        ),
        (
            "[[resources]]\nname='a'\ncapacity=true",
            "resources[1].capacity=true in {}: must be auto or a whole number of at least 0 (0 grants no slot)",
        ),
        (
            "[[resources]]\nname='a'\n[[resources]]\nname='a'",
            f"resources=[{{{{'name': 'a'}}}}, {{{{'name': 'a'}}}}] in {{}}: must be {TABLES} (two are named a)",
        ),
        ("[prices.own]\ninput=1", "prices.own={{'input': 1}} in {}: must be " + PRICE),
        ("[prices.own]\ninput=-1\noutput=1", "prices.own={{'input': -1, 'output': 1}} in {}: must be " + PRICE),
        ("prices = 3", "prices=3 in {}: must be a table of model names or globs, each " + PRICE),
        ("tokens_per_minute = 0", "tokens_per_minute=0 in {}: must be none or a number above 0"),
    ],
)
def test_fault_in_the_file_is_named_with_the_file(line, message, config):
    environ = config(line)

    assert load_fault(environ) == message.format(environ["LOCO_CONFIG"])


def test_faults_of_file_and_environment_are_reported_together(config):
    environ = {**config("max_waiters = 0\ncolour = 'red'"), "LOCO_CAPACITY": "two"}
    path = environ["LOCO_CONFIG"]

    assert load_fault(environ) == (
        f"colour in {path} is not a setting of loco-otel; "
        "LOCO_CAPACITY=two: must be auto or a whole number of at least 0 (0 grants no slot); "
        f"max_waiters=0 in {path}: must be none or a whole number of at least 1"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"capacity = = 2", "(Invalid value (at line 1, column 12))"),
        (b"capacity = 1\ncapacity = 2", "(Cannot overwrite a value"),
        (b"agent_id = '\xff'", "('utf-8' codec can't decode byte 0xff in position 12"),
    ],
)
def test_file_that_is_no_toml_is_rejected(content, reason, config):
    environ = config(content)

    message = f"LOCO_CONFIG={environ['LOCO_CONFIG']}: must name a readable TOML file {reason}"
    assert load_fault(environ).startswith(message)


def test_file_too_deep_to_parse_is_rejected(config):
    assert "must name a readable TOML file" in load_fault(config("x = " + "[" * 100_000))


@pytest.mark.parametrize(("name", "reason"), [("no.toml", "No such file or directory"), ("", "Is a directory")])
def test_unreadable_file_is_rejected(name, reason, tmp_path):
    path = str(tmp_path / name)

    assert load_fault({"LOCO_CONFIG": path, "LOCO_CAPACITY": "two"}) == (
        f"LOCO_CONFIG={path}: must name a readable TOML file ({reason}); "
        "LOCO_CAPACITY=two: must be auto or a whole number of at least 0 (0 grants no slot)"
    )


def test_file_name_may_start_at_home(config, tmp_path, monkeypatch):
    config("capacity = 4")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = Settings.load({"LOCO_CONFIG": "~/loco.toml"})

    assert settings.capacity == 4
    assert settings.origin("capacity") == "file ~/loco.toml"


def test_empty_file_changes_nothing(config):
    assert Settings.load(config("")) == Settings.load({})
