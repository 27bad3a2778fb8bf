"""The settings of loco-otel: one frozen value, read once.

Within the library, no other module reads the process's environment, apart from `COLUMNS` for tables on a terminal. The
command line reports on the environment, so it passes that to its own checks too.

A setting comes from `LOCO_<KEY>` in the environment, else from `key` in the TOML file that `LOCO_CONFIG` names, else it
has its default. Each value keeps its source, for `loco-otel doctor`, and an error message quotes the setting as the
user wrote it.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from loco_otel._config.budget_rules import BudgetRule, Price, find_duplicate_name, parse_budget_line
from loco_otel._config.engine_rules import MEMORY, find_unshared, is_server_url, validate_engine, validate_ledger
from loco_otel._config.messages import (
    TABLE_ENTRIES,
    RawSetting,
    describe_errors,
    describe_unknown_setting,
    format_setting,
    format_single_line,
)
from loco_otel._config.priority_rules import PriorityTable
from loco_otel._config.resource_rules import ResourceRule, reject_duplicate_names
from loco_otel._config.run_limits import RunLimits, parse_run_limits_line
from loco_otel._config.validators import (
    accept_none_word,
    convert_to_lower,
    parse_service_name,
    reject_bool,
    reject_too_large,
    resolve_path,
    split_hosts,
    validate_zone,
    wrap_single_value,
)
from loco_otel.errors import ConfigurationError
from loco_otel.events import Priority
from loco_otel.money import Action, Budget, Period, Scope

OPTIMIZE_FOR_ALPHA: Mapping[str, float] = {"latency": 0.0, "balanced": 0.25, "throughput": 0.5}
"""The alpha of each value of `LOCO_OPTIMIZE_FOR`."""


class SettingRow(NamedTuple):
    """One setting, for display."""

    key: str
    value: str
    origin: str


PolicyName = Literal["load", "fair", "las", "fifo"]
QueueKey = Literal["agent", "run"]
_OptimizationGoal = Literal["latency", "balanced", "throughput"]
_Integer = Annotated[int, BeforeValidator(reject_bool), AfterValidator(reject_too_large)]
_Number = Annotated[float, BeforeValidator(reject_bool), Field(allow_inf_nan=False), AfterValidator(reject_too_large)]
_Weight = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), AfterValidator(reject_too_large)]

_Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
_FilePath = Annotated[_Name | None, accept_none_word("none"), AfterValidator(resolve_path)]
_Share = Annotated[float, Field(strict=True, ge=0.001, le=1000)]
_SHARE_TEXT = TABLE_ENTRIES["shares"]


class Settings(BaseModel):
    """All settings, validated. A field's description states the allowed values: it completes "must be"."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    enabled: bool = Field(default=True, description="true or false")
    """False: no SDK is patched."""
    mode: Annotated[Literal["enforce", "observe"], BeforeValidator(convert_to_lower)] = Field(
        default="enforce", description="enforce or observe"
    )
    """`observe` lets every call through at once, and records those that would have been refused."""
    capacity: Annotated[Annotated[_Integer, Field(ge=0)] | None, accept_none_word("auto")] = Field(
        default=None, description="auto or a whole number of at least 0 (0 grants no slot)"
    )
    """Slots of the default resource, 0 for none; None, `auto`: a limit per host, which adapts to its refusals."""
    capacity_max: Annotated[Annotated[_Integer, Field(ge=1)] | None, accept_none_word("none")] = Field(
        default=None, description="none or a whole number of at least 1"
    )
    """The upper bound of such a limit."""
    engine: Annotated[_Name, AfterValidator(validate_engine)] = Field(
        default=MEMORY,
        description="memory, or a URL redis://, rediss://, valkey:// or redis+sentinel://host:26379/service",
        repr=False,
    )
    """The server that decides for all processes that name it; `memory` shares nothing. It may contain a password."""
    engine_namespace: Annotated[str, StringConstraints(pattern=r"^[^\s{}]{1,100}$")] = Field(
        default="default", description="a name without spaces and braces"
    )
    """Processes with the same name share their limits."""
    engine_ttl: Annotated[_Number, Field(ge=1, le=60)] = Field(default=5.0, description="a number of seconds, 1 to 60")
    """Seconds until a process that is silent has lost its slots."""
    engine_timeout: Annotated[_Number, Field(ge=0.01, le=10)] = Field(
        default=0.25, description="a number of seconds, 0.01 to 10"
    )
    """Seconds to wait for an answer of the engine before it counts as away."""
    engine_on_error: Annotated[Literal["local", "closed", "open"], BeforeValidator(convert_to_lower)] = Field(
        default="local", description="local, closed or open"
    )
    """While the engine is away: each process grants its share, nothing is granted, or nothing is limited."""
    requests_per_minute: Annotated[Annotated[_Number, Field(gt=0)] | None, accept_none_word("none")] = Field(
        default=None, description="none or a number above 0"
    )
    """The most requests that may start per minute: of the default resource, or at each provider's host."""
    tokens_per_minute: Annotated[Annotated[_Number, Field(gt=0)] | None, accept_none_word("none")] = Field(
        default=None, description="none or a number above 0"
    )
    """The most tokens per minute, by estimate; corrected when a request ends."""
    policy: Annotated[PolicyName, BeforeValidator(convert_to_lower)] = Field(
        default="load", description="load, fair, las or fifo"
    )
    """The policy that selects the next waiter."""
    queue_by: Annotated[QueueKey, BeforeValidator(convert_to_lower)] = Field(
        default="agent", description="agent or run"
    )
    """Whose queue a request joins: the policy selects between agents or between runs."""
    half_life: Annotated[Annotated[_Number, Field(gt=0)] | None, accept_none_word("none")] = Field(
        default=600.0, description="none or a number of seconds above 0"
    )
    """Seconds after which service counts half under `las`; None means that it always counts in full."""
    run_idle_timeout: Annotated[_Number, Field(gt=0)] = Field(default=900.0, description="a number of seconds above 0")
    """Seconds after its last call at which a run is forgotten."""
    optimize_for: Annotated[_OptimizationGoal | None, BeforeValidator(convert_to_lower)] = Field(
        default="balanced", description="latency, balanced or throughput"
    )
    """A word for alpha; None if alpha itself is set."""
    alpha: Annotated[_Number, Field(ge=0, le=0.5)] = Field(
        default=OPTIMIZE_FOR_ALPHA["balanced"], description="a number from 0 to 0.5"
    )
    """Share of the queue's weight in the load score; the rest is the share of its age. Above 0.5 agents can starve."""
    auto_tune: bool = Field(default=False, description="true or false")
    """Adapt alpha to the queues, starting from the value that is set."""
    max_wait_ticks: Annotated[_Integer, Field(ge=0)] = Field(
        default=1000, description="a whole number of at least 0 (0 is off)"
    )
    """Ticks after which the oldest waiter is served first, under every policy; 0 disables this."""
    max_waiters: Annotated[Annotated[_Integer, Field(ge=1)] | None, accept_none_word("none")] = Field(
        default=None, description="none or a whole number of at least 1"
    )
    """The most requests that may wait at once; one more is rejected. None means no bound."""
    acquire_timeout: Annotated[Annotated[_Number, Field(ge=0)] | None, accept_none_word("none")] = Field(
        default=None, description="none or a number of seconds of at least 0"
    )
    """Seconds that a request may wait."""
    max_hold: Annotated[_Number, Field(gt=0)] = Field(default=900.0, description="a number of seconds above 0")
    """Seconds without activity after which a slot is reclaimed."""
    stream_usage: bool = Field(default=False, description="true or false")
    """Request the usage chunk of OpenAI streams if the program did not, and hide it from the program."""
    agent_id: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = Field(
        default=None, description="a name"
    )
    """The agent of a call that no source identifies."""
    log: Annotated[Literal["json", "pretty"], BeforeValidator(convert_to_lower)] = Field(
        default="json", description="json or pretty"
    )
    """Format of the event log of loco-agent's API; `pretty` also enables it."""
    metric_values: Annotated[_Integer, Field(ge=1)] = Field(default=200, description="a whole number of at least 1")
    """The most values of one metric attribute; further ones are recorded as `other`."""
    http_hosts: Annotated[tuple[str, ...], BeforeValidator(split_hosts)] = Field(
        default=(), description="hosts with commas between, each alone or with a port (llm.example, localhost:8000)"
    )
    """Hosts whose requests by httpx and httpx2 are calls, without an SDK. Empty: the two are not patched."""
    weights: Mapping[str, _Weight] = Field(
        default={}, description="a table of model names or globs, each with a number above 0"
    )
    """Weight of a call by model name or glob, instead of the estimate."""
    prices: Mapping[str, Price] = Field(
        default={}, description=f"a table of model names or globs, each {TABLE_ENTRIES['prices']}"
    )
    """Price of a model by name or glob, instead of the published one."""
    providers: Mapping[str, _Name] = Field(
        default={}, description=f"a table of hosts, globs or `host:port`, each with {TABLE_ENTRIES['providers']}"
    )
    """Provider of the calls to a host by its name or glob, instead of the one that the SDK or a known host names."""
    budgets: Annotated[tuple[BudgetRule, ...], BeforeValidator(parse_budget_line)] = Field(
        default=(),
        description="names with an amount in USD and commas between (analyst=5.00,default=2.00,*=20.00), or tables, "
        "each with a limit; amounts from 0.001 to 1000000000, or 0",
    )
    """The budgets. The name `default` means each agent without its own budget, `*` all agents together."""
    budget_period: Annotated[Period, BeforeValidator(convert_to_lower)] = Field(
        default=Period.TOTAL, description=f"one of {', '.join(Period)}"
    )
    """The period of budgets that do not state one."""
    budget_on_exceeded: Annotated[Action, BeforeValidator(convert_to_lower)] = Field(
        default=Action.REJECT, description=f"one of {', '.join(Action)}"
    )
    """The action of budgets that do not state one."""
    budget_zone: Annotated[str, AfterValidator(validate_zone)] = Field(
        default="UTC", description="a time zone such as Europe/Berlin"
    )
    """The time zone in which days and months end."""
    run_limits: Annotated[RunLimits, BeforeValidator(parse_run_limits_line)] = Field(
        default=RunLimits(),
        description="names with a number and commas between (usd=0.50,calls=100,seconds=600,repeats=5), or a table; of "
        + ", ".join(RunLimits.model_fields),
    )
    """What each run may take."""
    stop_file: _FilePath = Field(default=None, description="none or the path of a file")
    """The file that names runs, sessions, agents and tenants whose calls are refused. It need not exist."""
    downgrade: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(wrap_single_value)]] = Field(
        default={}, description=f"a table of models, each with {TABLE_ENTRIES['downgrade']}"
    )
    """By model: the models that may replace it, in descending order of price."""
    downgrade_ends: Annotated[Literal["reject", "alert"], BeforeValidator(convert_to_lower)] = Field(
        default="reject", description="reject or alert"
    )
    """What happens to a call if the budget has no room for the cheapest of them."""
    ledger: Annotated[_Name | None, accept_none_word("none"), AfterValidator(validate_ledger)] = Field(
        default=None, description="none, the path of a file, or a URL as for the engine", repr=False
    )
    """The file or server that stores spending; unset, the server of `engine`. A URL may contain a password."""
    ledger_on_error: Annotated[Literal["closed", "open"], BeforeValidator(convert_to_lower)] = Field(
        default="closed", description="closed or open"
    )
    """What happens to calls with budgets while it is unavailable: `closed` rejects them, `open` allows them."""
    count_spend: bool = Field(default=False, description="true or false")
    """Count for `spend()` from the start, also by run, even if nothing else needs the cost of calls."""
    resources: Annotated[tuple[ResourceRule, ...], AfterValidator(reject_duplicate_names)] = Field(
        default=(), description="tables, each with a name of its own and what it limits"
    )
    """Resources besides the default one, and the calls that need them."""
    shares: Mapping[str, _Share] = Field(default={}, description=f"a table of agents, each with {_SHARE_TEXT}")
    """Shares by agent under `fair` and `las`: twice the share gets twice the service. The default is 1."""
    tenant_shares: Mapping[str, _Share] = Field(default={}, description=f"a table of tenants, each with {_SHARE_TEXT}")
    """Shares by tenant, under every policy."""
    priority: Mapping[Priority, PriorityTable] = Field(default={}, description=f"tables: {TABLE_ENTRIES['priority']}")
    """How the classes of urgency are served; see `docs/policies.md` for the defaults."""

    service_name: str | None = Field(default=None, description="a name")
    """The service's name in OpenTelemetry's variables."""
    disabled_instrumentations: frozenset[str] = Field(default=frozenset(), description="names with commas between")
    """The instrumentations that OpenTelemetry's variable disables; `*` means all."""
    semconv_opt_in: frozenset[str] = Field(default=frozenset(), description="names with commas between")
    """The conventions that OpenTelemetry's variable opts in to."""

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _unknown: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment and the settings file that it names.

        Args:
            environ: the environment; None means that of the process.

        Raises:
            ConfigurationError: a value or the file is invalid; the message names all errors.

        """
        environ = os.environ if environ is None else environ
        given = _read_environment(environ)
        in_file, faults = _read_file(environ.get(_CONFIG_VARIABLE, "").strip())
        if given.keys() & _ALPHA_KEYS:
            in_file = {key: value for key, value in in_file.items() if key not in _ALPHA_KEYS}
        settings = cls._build_validated({**in_file, **given}, faults)
        settings._unknown = tuple(_describe_unknown_names(environ))
        return settings

    def changed(self, **overrides: object) -> Self:
        """Return a copy with some values replaced; None keeps `alpha` and `optimize_for`.

        Raises:
            ConfigurationError: a value or a key is invalid; the message names all errors.

        """
        faults = [describe_unknown_setting(key, _OWN_KEYS) for key in overrides if key not in _OWN_KEYS]
        new = {
            key: RawSetting(value, key, "configure()")
            for key, value in overrides.items()
            if key in _OWN_KEYS and not (value is None and key in _ALPHA_KEYS)
        }
        kept = {
            key: RawSetting(getattr(self, key), key, origin)
            for key, origin in self._origins.items()
            if not (key in _ALPHA_KEYS and new.keys() & _ALPHA_KEYS)
        }
        settings = self._build_validated({**kept, **new}, faults)
        settings._unknown = self._unknown
        return settings

    def origin(self, key: str) -> str:
        """Return the source of a value: the variable's name, `file <path>`, `configure()` or `default`."""
        if key == "alpha" and key not in self._origins:
            key = "optimize_for"
        return self._origins.get(key, "default")

    def rows(self) -> tuple[SettingRow, ...]:
        """Return all settings, for display."""
        return tuple(SettingRow(key, format_setting(key, getattr(self, key)), self.origin(key)) for key in _KEYS)

    @property
    def limits(self) -> tuple[Budget, ...]:
        """The budgets in the form of the ledger, with those of each run."""
        rules = [rule.make_budget(self.budget_period, self.budget_on_exceeded) for rule in self.budgets]
        return (*rules, *self.run_limits.list_budgets())

    @property
    def ledger_url(self) -> str | None:
        """The URL of the server that has the ledger; None if it is a file or in memory."""
        if self.ledger is not None:
            return self.ledger if is_server_url(self.ledger) else None
        return self.engine if self.engine != MEMORY and self.origin("ledger") == "default" else None

    @property
    def ledger_location(self) -> str | None:
        """The path or URL of the ledger; None if it is in memory."""
        return self.ledger_url or self.ledger

    @property
    def unknown(self) -> tuple[str, ...]:
        """A message for each `LOCO_` variable of the environment that is not a setting."""
        return self._unknown

    @classmethod
    def _build_validated(cls, given: Mapping[str, RawSetting], faults: Iterable[str]) -> Self:
        """Validate values and return the settings.

        Raises:
            ConfigurationError: there are errors, including those found before.

        """
        faults = list(faults)
        if given.keys() >= _ALPHA_KEYS:
            faults.append(f"{given['optimize_for']} and {given['alpha']}: set one of them, not both")
            given = {key: value for key, value in given.items() if key != "alpha"}
        try:
            settings = cls.model_validate({key: value.value for key, value in given.items()})
        except ValidationError as error:
            faults += describe_errors(error, given, cls.model_fields)
        else:
            faults += settings._find_conflicts(given)
        if faults:
            raise ConfigurationError("; ".join(dict.fromkeys(faults)))
        settings._origins = {key: value.origin for key, value in given.items()}
        return settings

    def _find_conflicts(self, given: Mapping[str, RawSetting]) -> Iterable[str]:
        """Yield a message for each combination of values that is invalid."""
        if self.engine != MEMORY:
            for key, reason in find_unshared(self.mode):
                yield f"{given[key]}: {reason}"
        downgrading = any(budget.action is Action.DOWNGRADE for budget in self.limits)
        if downgrading and not self.downgrade:
            rule_says_so = any(rule.on_exceeded is Action.DOWNGRADE for rule in self.budgets)
            written = given["budgets" if rule_says_so else "budget_on_exceeded"]
            yield (
                f"{written}: downgrade needs a table of cheaper models, [downgrade] in the file that {_CONFIG_VARIABLE}"
                " names"
            )
        twice = find_duplicate_name(self.budgets, self.budget_period)
        if twice is not None:
            yield f"{given['budgets']}: must have one budget for each name, unit and period (two are named {twice})"
        each_run = {(limit.unit, limit.period) for limit in self.run_limits.list_budgets()}
        for rule in self.budgets:
            if rule.scope is Scope.RUN and (rule.unit, rule.period or self.budget_period) in each_run and not rule.key:
                yield f"{given['budgets']}: a budget of each run in {rule.unit} and run_limits: set one of them"
        for model, ladder in self.downgrade.items():
            if model in ladder or len(set(ladder)) < len(ladder):
                yield f"{given['downgrade'].get_item(model)}: must be {TABLE_ENTRIES['downgrade']}, each once"

    @model_validator(mode="before")
    @classmethod
    def _resolve_alpha(cls, values: dict[str, object]) -> dict[str, object]:
        if "alpha" in values:
            return {**values, "optimize_for": None}
        alpha = OPTIMIZE_FOR_ALPHA.get(str(values.get("optimize_for")).lower())
        return values if alpha is None else {**values, "alpha": alpha}


_KEYS = tuple(Settings.model_fields)
_ALPHA_KEYS = frozenset({"alpha", "optimize_for"})
_OPENTELEMETRY_LISTS = {
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "disabled_instrumentations",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "semconv_opt_in",
}
"""Settings that variables of OpenTelemetry have alone, lists of names."""
_OWN_KEYS = {key: key for key in _KEYS if key not in {"service_name", *_OPENTELEMETRY_LISTS.values()}}
"""The settings of loco-otel itself, as spelt in the file and in `changed`."""
_FILE_ONLY_KEYS = (*TABLE_ENTRIES, "resources")
_ENVIRONMENT_VARIABLES = {key: f"LOCO_{key.upper()}" for key in _OWN_KEYS if key not in _FILE_ONLY_KEYS}
"""The variables of the settings that the environment may set."""
_CONFIG_VARIABLE = "LOCO_CONFIG"


def is_pretty_log_enabled(environ: Mapping[str, str] | None = None) -> bool:
    """Return whether the environment selects the pretty event log. Needed on import, before any settings."""
    environ = os.environ if environ is None else environ
    return environ.get(_ENVIRONMENT_VARIABLES["log"], "").strip().lower() == "pretty"


def _read_environment(environ: Mapping[str, str]) -> dict[str, RawSetting]:
    given = {}
    for key, name in _ENVIRONMENT_VARIABLES.items():
        if value := environ.get(name, "").strip():
            given[key] = RawSetting(value, name, name)
    if value := environ.get("OTEL_SERVICE_NAME", "").strip():
        given["service_name"] = RawSetting(value, "OTEL_SERVICE_NAME", "OTEL_SERVICE_NAME")
    elif value := parse_service_name(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        given["service_name"] = RawSetting(value, "service.name", "OTEL_RESOURCE_ATTRIBUTES")
    for name, key in _OPENTELEMETRY_LISTS.items():
        if names := [part.strip() for part in environ.get(name, "").split(",") if part.strip()]:
            given[key] = RawSetting(names, name, name)
    return given


def _read_file(path: str) -> tuple[dict[str, RawSetting], list[str]]:
    """Return the values of the file, and its errors."""
    if not path:
        return {}, []
    try:
        import tomllib  # noqa: PLC0415 - few programs have such a file

        table = tomllib.loads(Path(path).expanduser().read_bytes().decode())
    except (OSError, RuntimeError, ValueError) as error:  # no file; no home, nested too deep; no TOML, no UTF-8
        reason = getattr(error, "strerror", None) or error
        return {}, [f"{_CONFIG_VARIABLE}={format_single_line(path)}: must name a readable TOML file ({reason})"]
    place = f" in {format_single_line(path)}"
    faults = [describe_unknown_setting(key, _OWN_KEYS, place) for key in table if key not in _OWN_KEYS]
    given = {key: RawSetting(value, key, f"file {path}", place) for key, value in table.items() if key in _OWN_KEYS}
    return given, faults


def _describe_unknown_names(environ: Mapping[str, str]) -> Iterable[str]:
    spelt = {**_ENVIRONMENT_VARIABLES, "config": _CONFIG_VARIABLE}
    for name in sorted(name for name, value in environ.items() if name.upper().startswith("LOCO_") and value.strip()):
        key = name.removeprefix("LOCO_").lower()
        if key in _FILE_ONLY_KEYS:
            yield f"{name} is not read: set {key} in the file that {_CONFIG_VARIABLE} names"
        elif name not in spelt.values():
            yield describe_unknown_setting(name, spelt)
