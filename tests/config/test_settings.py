"""The settings: each key in the environment, its default, and the error of an invalid one."""

import ast
import math
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from setting_checks import OPENTELEMETRY_KEYS, load_fault

import loco_otel
from loco_otel._config.settings import Settings
from loco_otel.errors import ConfigurationError

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
    assert load_fault({name: value}) == f"{name}={value}: {allowed}"


def test_relative_paths_outlive_a_change_of_the_folder(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    settings = Settings.load({"LOCO_STOP_FILE": "stop", "LOCO_LEDGER": "~/spent.db"})
    monkeypatch.chdir("other")

    changed = settings.changed(capacity=2)

    assert changed.stop_file == settings.stop_file == str(tmp_path / "stop")
    assert changed.ledger == str(tmp_path / "home" / "spent.db")
    assert changed.changed(ledger="redis://cache/0").ledger == "redis://cache/0"


def test_relative_path_in_a_removed_folder_is_rejected(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    assert load_fault({"LOCO_LEDGER": "spent.db"}) == (
        "LOCO_LEDGER=spent.db: must be none or the path of a file (the working directory is gone)"
    )
    assert Settings.load({"LOCO_LEDGER": str(tmp_path / "spent.db")}).ledger == str(tmp_path / "spent.db")


def test_faults_of_all_variables_are_reported_together():
    message = load_fault({"LOCO_MAX_WAITERS": "x", "LOCO_CAPACITY": "two", "LOCO_ALPHA": "1"})

    assert message == (
        "LOCO_CAPACITY=two: must be auto or a whole number of at least 0 (0 grants no slot); "
        "LOCO_ALPHA=1: must be a number from 0 to 0.5; "
        "LOCO_MAX_WAITERS=x: must be none or a whole number of at least 1"
    )


def test_long_or_unprintable_value_is_shortened():
    assert load_fault({"LOCO_CAPACITY": HUGE}) == (
        f"LOCO_CAPACITY={'9' * 80}...: must be auto or a whole number of at least 0 (0 grants no slot)"
    )
    assert load_fault({"LOCO_POLICY": "lo\nad"}) == "LOCO_POLICY='lo\\nad': must be load, fair, las or fifo"
    assert load_fault({"LOCO_AGENT_ID": "\udcff"}) == "LOCO_AGENT_ID='\\udcff': must be a name"


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


# What is unknown.


def test_unknown_variable_is_reported_without_a_fault():
    settings = Settings.load(
        {
            "LOCO_CAPCITY": "2",
            "LOCO_XYZZY": "1",
            "LOCO_WEIGHTS": "{}",
            "LOCO_TENANT_SHARES": "{}",
            "LOCO_capacity": "2",
            "loco_policy": "fair",
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
        "loco_policy is not a setting of loco-otel; did you mean LOCO_POLICY?",
    )


NOT_IN_A_LINE = {"weights", "prices", "providers", "resources", "shares", "tenant_shares", "priority", "downgrade"}


def test_no_setting_is_unknown(config):
    names = {
        f"LOCO_{row.key.upper()}": row.value
        for row in Settings.load({}).rows()
        if row.key not in {*NOT_IN_A_LINE, "alpha", *OPENTELEMETRY_KEYS}
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
