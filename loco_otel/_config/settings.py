"""The settings of loco-otel: one frozen value, read once.

Nothing else in loco-otel reads the environment. A setting comes from `LOCO_<KEY>` in the environment, else
from `key` in the TOML file that `LOCO_CONFIG` names, else it has its default. Each value remembers where it
came from, so that `loco-otel doctor` can say so, and a fault is told in the words in which the user wrote the
setting.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import unquote
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from loco_otel._config.budget_rules import BudgetRule, Price, named_twice, read_line
from loco_otel._config.messages import TABLES, Given, displayed, faults_of, not_a_setting, one_line
from loco_otel._config.resource_rules import ResourceRule, by_name
from loco_otel._config.validators import lower, no_truth_value, not_too_large, word_for_none
from loco_otel.errors import ConfigurationError
from loco_otel.money import Action, Budget, Period

OPTIMIZE_FOR_ALPHA: Mapping[str, float] = {"latency": 0.0, "balanced": 0.25, "throughput": 0.5}
"""The alpha behind each word of `LOCO_OPTIMIZE_FOR`."""


class Row(NamedTuple):
    """One setting, for display."""

    key: str
    value: str
    origin: str


def _named_apart(rules: tuple[ResourceRule, ...]) -> tuple[ResourceRule, ...]:
    by_name(rules)
    return rules


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # no name, a directory, not known
        raise ValueError(f"{name!r} is no time zone") from None
    return name


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


_Goal = Literal["latency", "balanced", "throughput"]
_Whole = Annotated[int, BeforeValidator(no_truth_value), AfterValidator(not_too_large)]
_Number = Annotated[float, BeforeValidator(no_truth_value), Field(allow_inf_nan=False), AfterValidator(not_too_large)]
_Weight = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), AfterValidator(not_too_large)]

_Share = Annotated[float, Field(strict=True, ge=0.001, le=1000)]


class Settings(BaseSettings):
    """All settings, validated. A field's description says what its value may be: it completes "must be"."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="true or false")
    """Off: patch nothing."""
    capacity: Annotated[Annotated[_Whole, Field(ge=1)] | None, word_for_none("auto")] = Field(
        default=None, description="auto or a whole number of at least 1"
    )
    """Slots of the default resource; None, written `auto`: each provider's host has a limit of its own, which is found
    out from its refusals."""
    capacity_max: Annotated[Annotated[_Whole, Field(ge=1)] | None, word_for_none("none")] = Field(
        default=None, description="none or a whole number of at least 1"
    )
    """What such a limit never exceeds."""
    requests_per_minute: Annotated[Annotated[_Number, Field(gt=0)] | None, word_for_none("none")] = Field(
        default=None, description="none or a number above 0"
    )
    """How many requests may begin in a minute: of the default resource, or at each provider's host."""
    tokens_per_minute: Annotated[Annotated[_Number, Field(gt=0)] | None, word_for_none("none")] = Field(
        default=None, description="none or a number above 0"
    )
    """How many tokens they may take, by estimate, corrected once they have ended."""
    policy: Annotated[Literal["load", "fair", "fifo"], BeforeValidator(lower)] = Field(
        default="load", description="load, fair or fifo"
    )
    """Who of those that wait goes next."""
    optimize_for: Annotated[_Goal | None, BeforeValidator(lower)] = Field(
        default="balanced", description="latency, balanced or throughput"
    )
    """A word for alpha; None where alpha was set itself."""
    alpha: Annotated[_Number, Field(ge=0, le=0.5)] = Field(
        default=OPTIMIZE_FOR_ALPHA["balanced"], description="a number from 0 to 0.5"
    )
    """Share of the queue's weight in the load score; the rest is its age's. Above a half, agents starve."""
    auto_tune: bool = Field(default=False, description="true or false")
    """Let alpha follow what is seen of the queues; where it begins is what was set."""
    max_wait_ticks: Annotated[_Whole, Field(ge=0)] = Field(
        default=1000, description="a whole number of at least 0 (0 is off)"
    )
    """Ticks after which the oldest waiter goes first under every policy; 0 is never."""
    max_waiters: Annotated[_Whole, Field(ge=1)] = Field(default=1000, description="a whole number of at least 1")
    """Requests that may wait at once; one more is refused."""
    acquire_timeout: Annotated[Annotated[_Number, Field(ge=0)] | None, word_for_none("none")] = Field(
        default=None, description="none or a number of seconds of at least 0"
    )
    """Seconds that a request may wait."""
    max_hold: Annotated[_Number, Field(gt=0)] = Field(default=900.0, description="a number of seconds above 0")
    """Seconds without a sign of life until a slot is taken back."""
    stream_usage: bool = Field(default=False, description="true or false")
    """Ask OpenAI streams for the usage chunk where the program did not, and hide it from the program."""
    agent_id: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = Field(
        default=None, description="a name"
    )
    """Who calls when nothing else says."""
    log: Annotated[Literal["json", "pretty"], BeforeValidator(lower)] = Field(
        default="json", description="json or pretty"
    )
    """How the event log of the seed's API is written; `pretty` also turns it on."""
    metric_values: Annotated[_Whole, Field(ge=1)] = Field(default=200, description="a whole number of at least 1")
    """Most values of one metric attribute; those beyond fold into `other`."""
    weights: Mapping[str, _Weight] = Field(
        default={}, description="a table of model names or globs, each with a number above 0"
    )
    """Weight of a call by model name or glob, instead of the estimate."""
    prices: Mapping[str, Price] = Field(
        default={}, description=f"a table of model names or globs, each {TABLES['prices']}"
    )
    """Price of a model by name or glob, instead of the published one."""
    budgets: Annotated[tuple[BudgetRule, ...], BeforeValidator(read_line)] = Field(
        default=(),
        description="names with an amount in USD and commas between (analyst=5.00,default=2.00,*=20.00), or tables, "
        "each with a limit; amounts from 0.001 to 1000000000",
    )
    """What may be spent: of the names `default` is each agent that has none of its own, `*` all together."""
    budget_period: Annotated[Period, BeforeValidator(lower)] = Field(
        default=Period.TOTAL, description=f"one of {', '.join(Period)}"
    )
    """After how long budgets begin anew that do not say so themselves."""
    budget_on_exceeded: Annotated[Action, BeforeValidator(lower)] = Field(
        default=Action.REJECT, description=f"one of {', '.join(Action)}"
    )
    """What happens to a call beyond a budget that does not say so itself."""
    budget_zone: Annotated[str, AfterValidator(_zone)] = Field(
        default="UTC", description="a time zone such as Europe/Berlin"
    )
    """At whose midnight days and months end."""
    downgrade: Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]] = Field(
        default={}, description=f"a table of models, each with {TABLES['downgrade']}"
    )
    """By model: those that a call may be sent with instead, the next cheaper one first."""
    downgrade_ends: Annotated[Literal["reject", "alert"], BeforeValidator(lower)] = Field(
        default="reject", description="reject or alert"
    )
    """What happens where there is no room for the cheapest of them either."""
    ledger: Annotated[
        Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None, word_for_none("none")
    ] = Field(default=None, description="none or the path of a file")
    """Where what is spent is kept, for a restart and for other processes; None is in memory."""
    ledger_on_error: Annotated[Literal["closed", "open"], BeforeValidator(lower)] = Field(
        default="closed", description="closed or open"
    )
    """What happens to calls that have budgets while that file can't be used: refused, or let through."""
    count_spend: bool = Field(default=False, description="true or false")
    """Count for `spend()` from the start, also where nothing else needs to know what calls take."""
    resources: Annotated[tuple[ResourceRule, ...], AfterValidator(_named_apart)] = Field(
        default=(), description="tables, each with a name of its own and what it limits"
    )
    """Resources beside the default one, and which calls need them."""
    shares: Mapping[str, _Share] = Field(
        default={}, description="a table of agents, each with a number from 0.001 to 1000"
    )
    """By agent: of two that wait, one with twice the share is served twice as much under `fair`; others have 1."""
    tenant_shares: Mapping[str, _Share] = Field(
        default={}, description="a table of tenants, each with a number from 0.001 to 1000"
    )
    """The same by tenant, under every policy."""

    service_name: str | None = Field(default=None, description="a name")
    """The service as OpenTelemetry is told it."""
    disabled_instrumentations: frozenset[str] = Field(default=frozenset(), description="names with commas between")
    """The instrumentations that OpenTelemetry is told to leave out; `*` is all."""

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _unknown: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read the environment, the process's own unless another is given, and the file that it names.

        Raises:
            ConfigurationError: a value or the file can't be used; the message names all faults.

        """
        environ = os.environ if environ is None else environ
        given = _from_environment(environ)
        in_file, faults = _from_file(environ.get(_CONFIG, "").strip())
        if given.keys() & _ALPHA_KEYS:
            in_file = {key: value for key, value in in_file.items() if key not in _ALPHA_KEYS}
        settings = cls._validated({**in_file, **given}, faults)
        settings._unknown = tuple(_unknown_names(environ))
        return settings

    def changed(self, **overrides: object) -> Self:
        """Return a copy with some values replaced; None leaves `alpha` and `optimize_for` as they are.

        Raises:
            ConfigurationError: a value or a key can't be used; the message names all faults.

        """
        faults = [not_a_setting(key, _OURS) for key in overrides if key not in _OURS]
        new = {
            key: Given(value, key, "configure()")
            for key, value in overrides.items()
            if key in _OURS and not (value is None and key in _ALPHA_KEYS)
        }
        kept = {
            key: Given(getattr(self, key), key, origin)
            for key, origin in self._origins.items()
            if not (key in _ALPHA_KEYS and new.keys() & _ALPHA_KEYS)
        }
        settings = self._validated({**kept, **new}, faults)
        settings._unknown = self._unknown
        return settings

    def origin(self, key: str) -> str:
        """Say where a value came from: the variable's name, `file <path>`, `configure()` or `default`."""
        if key == "alpha" and key not in self._origins:
            key = "optimize_for"
        return self._origins.get(key, "default")

    def rows(self) -> tuple[Row, ...]:
        """Return all settings, for display."""
        return tuple(Row(key, displayed(key, getattr(self, key)), self.origin(key)) for key in _KEYS)

    @property
    def limits(self) -> tuple[Budget, ...]:
        """The budgets as the ledger knows them."""
        return tuple(rule.budget(self.budget_period, self.budget_on_exceeded) for rule in self.budgets)

    @property
    def unknown(self) -> tuple[str, ...]:
        """A message for each variable of the environment that looks like a setting and is none."""
        return self._unknown

    @classmethod
    def _validated(cls, given: Mapping[str, Given], faults: Iterable[str]) -> Self:
        """Make settings of what was given.

        Raises:
            ConfigurationError: there are faults, those found before included.

        """
        faults = list(faults)
        if given.keys() >= _ALPHA_KEYS:
            faults.append(f"{given['optimize_for']} and {given['alpha']}: set one of them, not both")
            given = {key: value for key, value in given.items() if key != "alpha"}
        try:
            settings = cls.model_validate({key: value.value for key, value in given.items()})
        except ValidationError as error:
            faults += faults_of(error, given, cls.model_fields)
        else:
            faults += settings._at_odds(given)
        if faults:
            raise ConfigurationError("; ".join(dict.fromkeys(faults)))
        settings._origins = {key: value.origin for key, value in given.items()}
        return settings

    def _at_odds(self, given: Mapping[str, Given]) -> Iterable[str]:
        """Say which values do not go together."""
        downgrading = any(budget.action is Action.DOWNGRADE for budget in self.limits)
        if downgrading and not self.downgrade:
            rule_says_so = any(rule.on_exceeded is Action.DOWNGRADE for rule in self.budgets)
            written = given["budgets" if rule_says_so else "budget_on_exceeded"]
            yield f"{written}: downgrade needs a table of cheaper models, [downgrade] in the file that {_CONFIG} names"
        twice = named_twice(self.budgets, self.budget_period)
        if twice is not None:
            yield f"{given['budgets']}: must have one budget for each name, unit and period (two are named {twice})"
        for model, ladder in self.downgrade.items():
            if model in ladder or len(set(ladder)) < len(ladder):
                yield f"{given['downgrade'].item(model)}: must be {TABLES['downgrade']}, each once"

    @model_validator(mode="before")
    @classmethod
    def _resolve_alpha(cls, values: dict[str, object]) -> dict[str, object]:
        if "alpha" in values:
            return {**values, "optimize_for": None}
        alpha = OPTIMIZE_FOR_ALPHA.get(str(values.get("optimize_for")).lower())
        return values if alpha is None else {**values, "alpha": alpha}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the call alone: `load` asks the sources, to know which of them answered."""
        return (init_settings,)


_KEYS = tuple(Settings.model_fields)
_ALPHA_KEYS = frozenset({"alpha", "optimize_for"})
_OURS = {key: key for key in _KEYS if key not in {"service_name", "disabled_instrumentations"}}
"""The settings of loco-otel itself, as the file and `changed` spell them."""
_ONLY_IN_FILE = (*TABLES, "resources")
_VARIABLES = {key: f"LOCO_{key.upper()}" for key in _OURS if key not in _ONLY_IN_FILE}
"""Those that the environment may set, as it spells them."""
_CONFIG = "LOCO_CONFIG"


def pretty_log_is_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether the environment asks for the pretty event log: known on import, before settings are needed."""
    environ = os.environ if environ is None else environ
    return environ.get(_VARIABLES["log"], "").strip().lower() == "pretty"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    given = {}
    for key, name in _VARIABLES.items():
        if value := environ.get(name, "").strip():
            given[key] = Given(value, name, name)
    if value := environ.get("OTEL_SERVICE_NAME", "").strip():
        given["service_name"] = Given(value, "OTEL_SERVICE_NAME", "OTEL_SERVICE_NAME")
    elif value := _service_name(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        given["service_name"] = Given(value, "service.name", "OTEL_RESOURCE_ATTRIBUTES")
    name = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    if names := [part.strip() for part in environ.get(name, "").split(",") if part.strip()]:
        given["disabled_instrumentations"] = Given(names, name, name)
    return given


def _service_name(resource_attributes: str) -> str:
    """Return `service.name` of `key=value,...` with percent-encoded values; the last one counts."""
    pairs = (item.partition("=") for item in resource_attributes.split(","))
    names = [unquote(value.strip()) for key, _, value in pairs if key.strip() == "service.name"]
    return names[-1].strip() if names else ""


def _from_file(path: str) -> tuple[dict[str, Given], list[str]]:
    """Return what the file says and what is wrong with it."""
    if not path:
        return {}, []
    try:
        with Path(path).expanduser().open("rb") as file:
            table = tomllib.load(file)
    except (OSError, RuntimeError, ValueError) as error:  # no such file; no home, too deep; no TOML, no UTF-8
        reason = getattr(error, "strerror", None) or error
        return {}, [f"{_CONFIG}={one_line(path)}: must name a readable TOML file ({reason})"]
    place = f" in {one_line(path)}"
    faults = [not_a_setting(key, _OURS, place) for key in table if key not in _OURS]
    given = {key: Given(value, key, f"file {path}", place) for key, value in table.items() if key in _OURS}
    return given, faults


def _unknown_names(environ: Mapping[str, str]) -> Iterable[str]:
    spelt = {**_VARIABLES, "config": _CONFIG}
    for name in sorted(name for name, value in environ.items() if name.startswith("LOCO_") and value.strip()):
        key = name.removeprefix("LOCO_").lower()
        if key in _ONLY_IN_FILE:
            yield f"{name} is not read: {key} stand in the file that {_CONFIG} names"
        elif name not in spelt.values():
            yield not_a_setting(name, spelt)
