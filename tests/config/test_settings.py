"""The settings: each key, its sources, and the error of an invalid one."""

import ast
import math
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import loco_otel
from loco_otel._config.budget_rules import Price
from loco_otel._config.priority_rules import PriorityTable
from loco_otel._config.resource_rules import ResourceRule
from loco_otel._config.settings import OPTIMIZE_FOR_ALPHA, Settings
from loco_otel.errors import ConfigurationError
from loco_otel.events import Priority
from loco_otel.money import Action, Budget, Period, Scope, Unit

HUGE = "9" * 5000
PACKAGE = Path(loco_otel.__file__).parent


def test_environment_is_read_by_few_modules() -> None:
    """In the library the settings alone; the command line reports on the environment, and tables fit the terminal."""
    readers = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv"}
    }
    commands = {"cli/main.py", "cli/report/command.py", "cli/top/command.py"}
    assert readers == {"_config/settings.py", "_introspection/tables.py", *commands}


def fault(environ: dict[str, str]) -> str:
    """Return the error of an invalid environment: one line."""
    with pytest.raises(ConfigurationError) as raised:
        Settings.load(environ)
    message = str(raised.value)
    assert message.isprintable()
    return message


def test_everything_has_a_default():
    settings = Settings.load({})

    assert settings.enabled is True
    assert settings.capacity is None
    assert settings.policy == "load"
    assert settings.optimize_for == "balanced"
    assert settings.alpha == 0.25
    assert settings.auto_tune is False
    assert settings.log == "json"
    assert settings.max_wait_ticks == 1000
    assert settings.max_waiters is None
    assert settings.acquire_timeout is None
    assert settings.max_hold == 900.0
    assert settings.stream_usage is False
    assert settings.agent_id is None
    assert settings.metric_values == 200
    assert settings.weights == {}
    assert settings.shares == settings.tenant_shares == {}
    assert settings.service_name is None
    assert settings.disabled_instrumentations == settings.semconv_opt_in == frozenset()
    assert settings.unknown == ()
    assert {row.origin for row in settings.rows()} == {"default"}


def test_environment_defaults_to_that_of_the_process(monkeypatch):
    monkeypatch.setenv("LOCO_CAPACITY", "7")

    assert Settings.load().capacity == 7
    assert Settings.load({}).capacity is None
    assert Settings.load({}).changed(policy="fifo").capacity is None


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("enabled", "true", True),
        ("enabled", "TRUE", True),
        ("enabled", "1", True),
        ("enabled", "off", False),
        ("enabled", "no", False),
        ("enabled", "0", False),
        ("capacity", "1", 1),
        ("capacity", " 12 ", 12),
        ("capacity", "1000000000", 1_000_000_000),
        ("capacity", "auto", None),
        ("capacity", "Auto", None),
        ("policy", "load", "load"),
        ("policy", "FIFO", "fifo"),
        ("policy", "fair", "fair"),
        ("optimize_for", "latency", "latency"),
        ("optimize_for", "Throughput", "throughput"),
        ("alpha", "0", 0.0),
        ("alpha", "0.5", 0.5),
        ("alpha", "5e-1", 0.5),
        ("auto_tune", "true", True),
        ("log", "Pretty", "pretty"),
        ("max_wait_ticks", "0", 0),
        ("max_wait_ticks", "5", 5),
        ("max_waiters", "1", 1),
        ("acquire_timeout", "0", 0.0),
        ("acquire_timeout", "2.5", 2.5),
        ("acquire_timeout", "none", None),
        ("max_hold", "0.001", 0.001),
        ("stream_usage", "true", True),
        ("stream_usage", "off", False),
        ("agent_id", "analyst", "analyst"),
        ("agent_id", "  café 7 ", "café 7"),
        ("metric_values", "1", 1),
        ("http_hosts", " LLM.example , localhost:8000,", ("llm.example", "localhost:8000")),
        ("http_hosts", "none", ()),
    ],
)
def test_environment_sets_it(key, written, value):
    settings = Settings.load({f"LOCO_{key.upper()}": written})

    assert getattr(settings, key) == value
    assert type(getattr(settings, key)) is type(value)
    assert settings.origin(key) == f"LOCO_{key.upper()}"


WHOLE = "must be a whole number of at least 1"
HOSTS = "must be hosts with commas between, each alone or with a port (llm.example, localhost:8000)"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LOCO_ENABLED", "maybe", "must be true or false"),
        ("LOCO_ENABLED", "2", "must be true or false"),
        ("LOCO_CAPACITY", "two", "must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("LOCO_CAPACITY", "-1", "must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("LOCO_CAPACITY", "1.5", "must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("LOCO_CAPACITY", "nan", "must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("LOCO_CAPACITY", "true", "must be auto or a whole number of at least 0 (0 grants no slot)"),
        ("LOCO_CAPACITY", "1000000001", "must be at most 1000000000"),
        ("LOCO_POLICY", "random", "must be load, fair, las or fifo"),
        ("LOCO_POLICY", "lifo", "must be load, fair, las or fifo"),
        ("LOCO_OPTIMIZE_FOR", "speed", "must be latency, balanced or throughput"),
        ("LOCO_OPTIMIZE_FOR", "none", "must be latency, balanced or throughput"),
        ("LOCO_ALPHA", "0.51", "must be a number from 0 to 0.5"),
        ("LOCO_ALPHA", "-0.1", "must be a number from 0 to 0.5"),
        ("LOCO_ALPHA", "nan", "must be a number from 0 to 0.5"),
        ("LOCO_ALPHA", "-inf", "must be a number from 0 to 0.5"),
        ("LOCO_ALPHA", "half", "must be a number from 0 to 0.5"),
        ("LOCO_MAX_WAIT_TICKS", "-1", "must be a whole number of at least 0 (0 is off)"),
        ("LOCO_MAX_WAIT_TICKS", "1e12", "must be a whole number of at least 0 (0 is off)"),
        ("LOCO_MAX_WAITERS", "0", "must be none or a whole number of at least 1"),
        ("LOCO_MAX_WAITERS", "nan", "must be none or a whole number of at least 1"),
        ("LOCO_MAX_WAITERS", "99999999999", "must be at most 1000000000"),
        ("LOCO_ACQUIRE_TIMEOUT", "-0.1", "must be none or a number of seconds of at least 0"),
        ("LOCO_ACQUIRE_TIMEOUT", "nan", "must be none or a number of seconds of at least 0"),
        ("LOCO_ACQUIRE_TIMEOUT", "inf", "must be none or a number of seconds of at least 0"),
        ("LOCO_ACQUIRE_TIMEOUT", "1e400", "must be none or a number of seconds of at least 0"),
        ("LOCO_ACQUIRE_TIMEOUT", "1e12", "must be at most 1000000000"),
        ("LOCO_ACQUIRE_TIMEOUT", "soon", "must be none or a number of seconds of at least 0"),
        ("LOCO_MAX_HOLD", "0", "must be a number of seconds above 0"),
        ("LOCO_MAX_HOLD", "-5", "must be a number of seconds above 0"),
        ("LOCO_MAX_HOLD", "nan", "must be a number of seconds above 0"),
        ("LOCO_MAX_HOLD", "none", "must be a number of seconds above 0"),
        ("LOCO_MAX_HOLD", "1e10", "must be at most 1000000000"),
        ("LOCO_STOP_FILE", "~no-such-user/stop", "must be none or the path of a file (there is no home directory)"),
        ("LOCO_LEDGER", "~no-such-user/ledger.db", "must be none or the path of a file (there is no home directory)"),
        ("LOCO_STREAM_USAGE", "sometimes", "must be true or false"),
        ("LOCO_METRIC_VALUES", "0", WHOLE),
        ("LOCO_METRIC_VALUES", "many", WHOLE),
        ("LOCO_HTTP_HOSTS", "https://llm.example/v1", HOSTS),
        ("LOCO_HTTP_HOSTS", "llm.example:http", HOSTS),
        ("LOCO_HTTP_HOSTS", "key@llm.example", HOSTS),
    ],
)
def test_bad_value_is_named_with_allowed_values(name, value, allowed):
    assert fault({name: value}) == f"{name}={value}: {allowed}"


def test_faults_of_all_variables_are_reported_together():
    message = fault({"LOCO_MAX_WAITERS": "x", "LOCO_CAPACITY": "two", "LOCO_ALPHA": "1"})

    assert message == (
        "LOCO_CAPACITY=two: must be auto or a whole number of at least 0 (0 grants no slot); "
        "LOCO_ALPHA=1: must be a number from 0 to 0.5; "
        "LOCO_MAX_WAITERS=x: must be none or a whole number of at least 1"
    )


def test_long_or_unprintable_value_is_shortened():
    assert fault({"LOCO_CAPACITY": HUGE}) == (
        f"LOCO_CAPACITY={'9' * 80}...: must be auto or a whole number of at least 0 (0 grants no slot)"
    )
    assert fault({"LOCO_POLICY": "lo\nad"}) == "LOCO_POLICY='lo\\nad': must be load, fair, las or fifo"
    assert fault({"LOCO_AGENT_ID": "\udcff"}) == "LOCO_AGENT_ID='\\udcff': must be a name"


@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_variable_counts_as_unset(empty, config):
    names = [
        f"LOCO_{row.key.upper()}"
        for row in Settings.load({}).rows()
        if row.key not in {"weights", "providers", "shares", "tenant_shares", "priority"}
    ]

    assert Settings.load(dict.fromkeys(names, empty)) == Settings.load({})
    assert Settings.load({**config("capacity = 3"), "LOCO_CAPACITY": empty}).capacity == 3
    assert Settings.load({"LOCO_CONFIG": empty}) == Settings.load({})


def test_longest_allowed_time_is_usable():
    longest = Settings.load({"LOCO_ACQUIRE_TIMEOUT": "1000000000"}).acquire_timeout

    assert longest is not None
    assert longest < threading.TIMEOUT_MAX


@given(st.text(alphabet=st.characters(exclude_characters="\0")))
def test_any_text_loads_or_fails_in_one_line(text):
    for name in ("LOCO_ENABLED", "LOCO_CAPACITY", "LOCO_ALPHA", "LOCO_MAX_HOLD", "LOCO_AGENT_ID"):
        try:
            settings = Settings.load({name: text})
        except ConfigurationError as error:
            message = str(error)
        else:
            message = f"{name}= is fine"
            assert settings.capacity is None or settings.capacity >= 0
            assert 0 <= settings.alpha <= 0.5
            assert math.isfinite(settings.max_hold)
        assert message.startswith(f"{name}=")
        assert message.isprintable()


# Alpha.


@pytest.mark.parametrize(("goal", "alpha"), OPTIMIZE_FOR_ALPHA.items())
def test_goal_resolves_to_its_alpha(goal, alpha):
    settings = Settings.load({"LOCO_OPTIMIZE_FOR": goal})

    assert settings.alpha == alpha
    assert settings.origin("alpha") == "LOCO_OPTIMIZE_FOR"


def test_alpha_replaces_the_goal():
    settings = Settings.load({"LOCO_ALPHA": "0.1"})

    assert settings.alpha == 0.1
    assert settings.optimize_for is None


def test_alpha_with_a_goal_is_rejected():
    both = {"LOCO_ALPHA": "0.1", "LOCO_OPTIMIZE_FOR": "latency"}

    assert fault(both) == "LOCO_OPTIMIZE_FOR=latency and LOCO_ALPHA=0.1: set one of them, not both"


def test_alpha_with_a_goal_in_the_file_is_rejected(config):
    environ = config('alpha = 0.1\noptimize_for = "latency"')
    path = environ["LOCO_CONFIG"]

    assert fault(environ) == (f"optimize_for=latency in {path} and alpha=0.1 in {path}: set one of them, not both")


def test_alpha_and_goal_of_environment_override_the_file(config):
    settings = Settings.load({**config('optimize_for = "latency"'), "LOCO_ALPHA": "0.4"})
    assert (settings.alpha, settings.optimize_for) == (0.4, None)

    settings = Settings.load({**config("alpha = 0.4"), "LOCO_OPTIMIZE_FOR": "latency"})
    assert (settings.alpha, settings.optimize_for) == (0.0, "latency")


# The file.


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
    assert (settings.mode, settings.stop_file) == ("observe", "stop.txt")
    assert settings.downgrade == {"gpt-4o": ("gpt-4o-mini", "gpt-4.1-nano")}
    assert (settings.budget_zone, settings.downgrade_ends) == ("Europe/Berlin", "alert")
    assert (settings.ledger, settings.ledger_on_error, settings.count_spend) == ("spent.db", "open", True)
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
    ours = [row for row in settings.rows() if row.key not in OPENTELEMETRY]
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
    ("line", "said"),
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
def test_fault_in_the_file_is_named_with_the_file(line, said, config):
    environ = config(line)

    assert fault(environ) == said.format(environ["LOCO_CONFIG"])


def test_faults_of_file_and_environment_are_reported_together(config):
    environ = {**config("max_waiters = 0\ncolour = 'red'"), "LOCO_CAPACITY": "two"}
    path = environ["LOCO_CONFIG"]

    assert fault(environ) == (
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

    said = f"LOCO_CONFIG={environ['LOCO_CONFIG']}: must name a readable TOML file {reason}"
    assert fault(environ).startswith(said)


def test_file_too_deep_to_parse_is_rejected(config):
    assert "must name a readable TOML file" in fault(config("x = " + "[" * 100_000))


@pytest.mark.parametrize(("name", "reason"), [("no.toml", "No such file or directory"), ("", "Is a directory")])
def test_unreadable_file_is_rejected(name, reason, tmp_path):
    path = str(tmp_path / name)

    assert fault({"LOCO_CONFIG": path, "LOCO_CAPACITY": "two"}) == (
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


# What is unknown.


def test_unknown_variable_is_reported_without_a_fault():
    settings = Settings.load(
        {
            "LOCO_CAPCITY": "2",
            "LOCO_XYZZY": "1",
            "LOCO_WEIGHTS": "{}",
            "LOCO_TENANT_SHARES": "{}",
            "LOCO_capacity": "2",
            "LOCOMOTIVE": "1",
            "PATH": "/bin",
        }
    )

    assert settings.capacity is None
    assert settings.unknown == (
        "LOCO_CAPCITY is not a setting of loco-otel; did you mean LOCO_CAPACITY?",
        "LOCO_TENANT_SHARES is not read: set tenant_shares in the file that LOCO_CONFIG names",
        "LOCO_WEIGHTS is not read: set weights in the file that LOCO_CONFIG names",
        "LOCO_XYZZY is not a setting of loco-otel",
        "LOCO_capacity is not a setting of loco-otel; did you mean LOCO_CAPACITY?",
    )


OPENTELEMETRY = {"service_name", "disabled_instrumentations", "semconv_opt_in"}
"""Settings that variables of OpenTelemetry have."""
NOT_IN_A_LINE = {"weights", "prices", "providers", "resources", "shares", "tenant_shares", "priority", "downgrade"}


def test_no_setting_is_unknown(config):
    names = {
        f"LOCO_{row.key.upper()}": row.value
        for row in Settings.load({}).rows()
        if row.key not in {*NOT_IN_A_LINE, "alpha", *OPENTELEMETRY}
    }

    assert Settings.load({**names, **config("")}).unknown == ()


# OpenTelemetry's own variables.


@pytest.mark.parametrize(
    ("environ", "name", "origin"),
    [
        ({"OTEL_SERVICE_NAME": "shop"}, "shop", "OTEL_SERVICE_NAME"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop"}, "shop", "OTEL_RESOURCE_ATTRIBUTES"),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name = my%20shop ,c"},
            "my shop",
            "OTEL_RESOURCE_ATTRIBUTES",
        ),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a=b"}, "a=b", "OTEL_RESOURCE_ATTRIBUTES"),
        (
            {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=other"},
            "shop",
            "OTEL_SERVICE_NAME",
        ),
        ({"OTEL_SERVICE_NAME": " ", "OTEL_RESOURCE_ATTRIBUTES": "service.names=x,,="}, None, "default"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name="}, None, "default"),
    ],
)
def test_service_name_is_that_of_opentelemetry(environ, name, origin):
    settings = Settings.load(environ)

    assert settings.service_name == name
    assert settings.origin("service_name") == origin


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("", set()),
        ("*", {"*"}),
        ("loco_openai", {"loco_openai"}),
        (" requests , ,loco_openai", {"requests", "loco_openai"}),
    ],
)
def test_disabled_instrumentations_are_those_of_opentelemetry(written, names):
    settings = Settings.load(
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": written, "OTEL_SEMCONV_STABILITY_OPT_IN": written}
    )

    assert settings.disabled_instrumentations == settings.semconv_opt_in == names


# Changing and showing.


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load({}).capacity = 3


def test_changed_copy_keeps_the_rest_and_lists_changes():
    settings = Settings.load({"LOCO_CAPACITY": "2", "LOCO_MAX_HOLD": "5", "LOCO_X": "1", "OTEL_SERVICE_NAME": "shop"})
    changed = settings.changed(capacity="auto", weights={"gpt-4o": 2})

    assert (settings.capacity, settings.weights) == (2, {})
    assert (changed.capacity, changed.max_hold, changed.service_name) == (None, 5.0, "shop")
    assert changed.weights == {"gpt-4o": 2.0}
    assert changed.unknown == settings.unknown != ()
    assert [changed.origin(key) for key in ("capacity", "max_hold", "policy", "service_name")] == [
        "configure()",
        "LOCO_MAX_HOLD",
        "default",
        "OTEL_SERVICE_NAME",
    ]


def test_none_can_be_set_again():
    settings = Settings.load({"LOCO_CAPACITY": "2", "LOCO_ACQUIRE_TIMEOUT": "1", "LOCO_AGENT_ID": "a"})
    changed = settings.changed(capacity=None, acquire_timeout=None, agent_id=None)

    assert (changed.capacity, changed.acquire_timeout, changed.agent_id) == (None, None, None)


def test_later_writes_to_given_values_change_nothing():
    weights = {"gpt-4o": 2}
    settings = Settings.load({}).changed(weights=weights)
    weights["gpt-4o"] = 9

    assert settings.weights == {"gpt-4o": 2.0}


def test_change_of_alpha_or_goal_replaces_the_other():
    settings = Settings.load({"LOCO_OPTIMIZE_FOR": "latency"})
    by_alpha = settings.changed(alpha=0.3, optimize_for=None)
    by_goal = by_alpha.changed(optimize_for="throughput")

    assert (by_alpha.alpha, by_alpha.optimize_for) == (0.3, None)
    assert (by_goal.alpha, by_goal.optimize_for) == (0.5, "throughput")
    assert (by_goal.origin("alpha"), by_alpha.origin("optimize_for")) == ("configure()", "default")
    assert by_alpha.changed(capacity=1).alpha == 0.3
    assert settings.changed(capacity=1, alpha=None).alpha == 0.0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"capacity": "two"}, "capacity=two: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ({"capacity": True}, "capacity=true: must be auto or a whole number of at least 0 (0 grants no slot)"),
        ({"alpha": math.nan}, "alpha=nan: must be a number from 0 to 0.5"),
        ({"policy": None}, "policy=none: must be load, fair, las or fifo"),
        (
            {"alpha": 0.1, "optimize_for": "latency"},
            "optimize_for=latency and alpha=0.1: set one of them, not both",
        ),
        (
            {"capcity": 2, "max_waiters": 0},
            (
                "capcity is not a setting of loco-otel; did you mean capacity?; "
                "max_waiters=0: must be none or a whole number of at least 1"
            ),
        ),
        ({"service_name": "x"}, "service_name is not a setting of loco-otel"),
        ({"weights": {"gpt-4o": 0}}, "weights.gpt-4o=0: must be a number above 0"),
    ],
)
def test_change_is_rejected_with_the_same_message(overrides, said):
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({}).changed(**overrides)

    assert str(raised.value) == said


def test_rows_show_every_setting_as_it_is_written(config):
    environ = {
        **config('[weights]\n"gpt-4o" = 4\n"claude-*" = 2.5'),
        "LOCO_MAX_HOLD": "60",
        "LOCO_ALPHA": "0.1",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "b,a",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "b,a",
    }

    assert [(row.key, row.value) for row in Settings.load(environ).rows()] == [
        ("enabled", "true"),
        ("mode", "enforce"),
        ("capacity", "auto"),
        ("capacity_max", "none"),
        ("engine", "memory"),
        ("engine_namespace", "default"),
        ("engine_ttl", "5"),
        ("engine_timeout", "0.25"),
        ("engine_on_error", "local"),
        ("requests_per_minute", "none"),
        ("tokens_per_minute", "none"),
        ("policy", "load"),
        ("queue_by", "agent"),
        ("half_life", "600"),
        ("run_idle_timeout", "900"),
        ("optimize_for", "none"),
        ("alpha", "0.1"),
        ("auto_tune", "false"),
        ("max_wait_ticks", "1000"),
        ("max_waiters", "none"),
        ("acquire_timeout", "none"),
        ("max_hold", "60"),
        ("stream_usage", "false"),
        ("agent_id", "none"),
        ("log", "json"),
        ("metric_values", "200"),
        ("http_hosts", "none"),
        ("weights", "gpt-4o=4, claude-*=2.5"),
        ("prices", "none"),
        ("providers", "none"),
        ("budgets", "none"),
        ("budget_period", "total"),
        ("budget_on_exceeded", "reject"),
        ("budget_zone", "UTC"),
        ("run_limits", "none"),
        ("stop_file", "none"),
        ("downgrade", "none"),
        ("downgrade_ends", "reject"),
        ("ledger", "none"),
        ("ledger_on_error", "closed"),
        ("count_spend", "false"),
        ("resources", "none"),
        ("shares", "none"),
        ("tenant_shares", "none"),
        ("priority", "none"),
        ("service_name", "none"),
        ("disabled_instrumentations", "a, b"),
        ("semconv_opt_in", "a, b"),
    ]
