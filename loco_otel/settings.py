"""The settings of loco-otel: one frozen value, read once.

Nothing else in loco-otel reads the environment. A setting comes from `LOCO_<KEY>` in the environment, else
from `key` in the TOML file that `LOCO_CONFIG` names, else it has its default. Each value remembers where it
came from, so that `loco-otel doctor` can say so, and a fault is told in the words in which the user wrote the
setting.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import unquote

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
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from loco_otel.errors import ConfigurationError
from loco_otel.routing import ResourceRule, by_name

OPTIMIZE_FOR_ALPHA: Mapping[str, float] = {"latency": 0.0, "balanced": 0.25, "throughput": 0.5}
"""The alpha behind each word of `LOCO_OPTIMIZE_FOR`."""

_TOO_LARGE = "too_large"
_LONGEST_SHOWN = 80
_MOST = 1_000_000_000
"""Of anything: no lock waits much longer than so many seconds, and the milli-weights of a thousand waiters of
such a weight still add up exactly as a double."""


class Row(NamedTuple):
    """One setting, for display."""

    key: str
    value: str
    origin: str


class _Given(NamedTuple):
    """A value as somebody wrote it, and where."""

    value: object
    key: str
    origin: str
    place: str = ""
    """What follows the value in a message where the key alone does not tell the place."""

    def __str__(self) -> str:
        return f"{self.key}={_shown(self.value)}{self.place}"

    def item(self, key: object) -> Self:
        """One entry of a table."""
        value = self.value.get(key) if isinstance(self.value, Mapping) else self.value
        return self._replace(key=f"{self.key}.{_shown(key)}", value=value)


def _no_truth_value(value: object) -> object:
    """Keep `true` from being taken for 1.

    Raises:
        ValueError: it is one.

    """
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")  # noqa: TRY004 - pydantic collects ValueErrors only
    return value


def _not_too_large(value: float) -> float:
    if value > _MOST:
        raise PydanticCustomError(_TOO_LARGE, "at most {most}", {"most": _MOST})
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _word_for_none(word: str) -> BeforeValidator:
    return BeforeValidator(lambda value: None if _lower(value) == word else value)


def _named_apart(rules: tuple[ResourceRule, ...]) -> tuple[ResourceRule, ...]:
    by_name(rules)
    return rules


_Goal = Literal["latency", "balanced", "throughput"]
_Whole = Annotated[int, BeforeValidator(_no_truth_value), AfterValidator(_not_too_large)]
_Number = Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False), AfterValidator(_not_too_large)]
_Cost = Annotated[Decimal, BeforeValidator(_no_truth_value), Field(ge=0, le=1_000_000, allow_inf_nan=False)]
_Weight = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False), AfterValidator(_not_too_large)]

_Share = Annotated[float, Field(strict=True, ge=0.001, le=1000)]


class Price(BaseModel):
    """What a model costs, in USD per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: _Cost
    output: _Cost
    cache_read: _Cost | None = None
    """Of input that the provider had in its cache; the input's price where it is not said."""
    cache_write: _Cost | None = None


_PRICE = "a table with input and output, and perhaps cache_read and cache_write: USD per million tokens, from 0"


class Settings(BaseSettings):
    """All settings, validated. A field's description says what its value may be: it completes "must be"."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(default=True, description="true or false")
    """Off: patch nothing."""
    capacity: Annotated[Annotated[_Whole, Field(ge=1)] | None, _word_for_none("auto")] = Field(
        default=None, description="auto or a whole number of at least 1"
    )
    """Slots of the default resource; None, written `auto`: each provider's host has a limit of its own, which is found
    out from its refusals."""
    capacity_max: Annotated[Annotated[_Whole, Field(ge=1)] | None, _word_for_none("none")] = Field(
        default=None, description="none or a whole number of at least 1"
    )
    """What such a limit never exceeds."""
    requests_per_minute: Annotated[Annotated[_Number, Field(gt=0)] | None, _word_for_none("none")] = Field(
        default=None, description="none or a number above 0"
    )
    """How many requests may begin in a minute: of the default resource, or at each provider's host."""
    tokens_per_minute: Annotated[Annotated[_Number, Field(gt=0)] | None, _word_for_none("none")] = Field(
        default=None, description="none or a number above 0"
    )
    """How many tokens they may take, by estimate, corrected once they have ended."""
    policy: Annotated[Literal["load", "fair", "fifo"], BeforeValidator(_lower)] = Field(
        default="load", description="load, fair or fifo"
    )
    """Who of those that wait goes next."""
    optimize_for: Annotated[_Goal | None, BeforeValidator(_lower)] = Field(
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
    acquire_timeout: Annotated[Annotated[_Number, Field(ge=0)] | None, _word_for_none("none")] = Field(
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
    log: Annotated[Literal["json", "pretty"], BeforeValidator(_lower)] = Field(
        default="json", description="json or pretty"
    )
    """How the event log of the seed's API is written; `pretty` also turns it on."""
    metric_values: Annotated[_Whole, Field(ge=1)] = Field(default=200, description="a whole number of at least 1")
    """Most values of one metric attribute; those beyond fold into `other`."""
    weights: Mapping[str, _Weight] = Field(
        default={}, description="a table of model names or globs, each with a number above 0"
    )
    """Weight of a call by model name or glob, instead of the estimate."""
    prices: Mapping[str, Price] = Field(default={}, description=f"a table of model names or globs, each {_PRICE}")
    """Price of a model by name or glob, instead of the published one."""
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
        faults = [_not_a_setting(key, _OURS) for key in overrides if key not in _OURS]
        new = {
            key: _Given(value, key, "configure()")
            for key, value in overrides.items()
            if key in _OURS and not (value is None and key in _ALPHA_KEYS)
        }
        kept = {
            key: _Given(getattr(self, key), key, origin)
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
        return tuple(Row(key, _displayed(key, getattr(self, key)), self.origin(key)) for key in _KEYS)

    @property
    def unknown(self) -> tuple[str, ...]:
        """A message for each variable of the environment that looks like a setting and is none."""
        return self._unknown

    @classmethod
    def _validated(cls, given: Mapping[str, _Given], faults: Iterable[str]) -> Self:
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
            faults += _faults(error, given)
        if faults:
            raise ConfigurationError("; ".join(dict.fromkeys(faults)))
        settings._origins = {key: value.origin for key, value in given.items()}
        return settings

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
_TABLES = {
    "weights": "a number above 0",
    "shares": "a number from 0.001 to 1000",
    "tenant_shares": "a number from 0.001 to 1000",
}
"""Those of names that only the file can say, and what an entry may be."""
_ONLY_IN_FILE = (*_TABLES, "resources", "prices")
_VARIABLES = {key: f"LOCO_{key.upper()}" for key in _OURS if key not in _ONLY_IN_FILE}
"""Those that the environment may set, as it spells them."""
_CONFIG = "LOCO_CONFIG"


def pretty_log_is_wanted(environ: Mapping[str, str] | None = None) -> bool:
    """Tell whether the environment asks for the pretty event log: known on import, before settings are needed."""
    environ = os.environ if environ is None else environ
    return environ.get(_VARIABLES["log"], "").strip().lower() == "pretty"


def _from_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    given = {}
    for key, name in _VARIABLES.items():
        if value := environ.get(name, "").strip():
            given[key] = _Given(value, name, name)
    if value := environ.get("OTEL_SERVICE_NAME", "").strip():
        given["service_name"] = _Given(value, "OTEL_SERVICE_NAME", "OTEL_SERVICE_NAME")
    elif value := _service_name(environ.get("OTEL_RESOURCE_ATTRIBUTES", "")):
        given["service_name"] = _Given(value, "service.name", "OTEL_RESOURCE_ATTRIBUTES")
    name = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
    if names := [part.strip() for part in environ.get(name, "").split(",") if part.strip()]:
        given["disabled_instrumentations"] = _Given(names, name, name)
    return given


def _service_name(resource_attributes: str) -> str:
    """Return `service.name` of `key=value,...` with percent-encoded values; the last one counts."""
    pairs = (item.partition("=") for item in resource_attributes.split(","))
    names = [unquote(value.strip()) for key, _, value in pairs if key.strip() == "service.name"]
    return names[-1].strip() if names else ""


def _from_file(path: str) -> tuple[dict[str, _Given], list[str]]:
    """Return what the file says and what is wrong with it."""
    if not path:
        return {}, []
    try:
        with Path(path).expanduser().open("rb") as file:
            table = tomllib.load(file)
    except (OSError, RuntimeError, ValueError) as error:  # no such file; no home, too deep; no TOML, no UTF-8
        reason = getattr(error, "strerror", None) or error
        return {}, [f"{_CONFIG}={_one_line(path)}: must name a readable TOML file ({reason})"]
    place = f" in {_one_line(path)}"
    faults = [_not_a_setting(key, _OURS, place) for key in table if key not in _OURS]
    given = {key: _Given(value, key, f"file {path}", place) for key, value in table.items() if key in _OURS}
    return given, faults


def _unknown_names(environ: Mapping[str, str]) -> Iterable[str]:
    spelt = {**_VARIABLES, "config": _CONFIG}
    for name in sorted(name for name, value in environ.items() if name.startswith("LOCO_") and value.strip()):
        key = name.removeprefix("LOCO_").lower()
        if key in _ONLY_IN_FILE:
            yield f"{name} is not read: {key} stand in the file that {_CONFIG} names"
        elif name not in spelt.values():
            yield _not_a_setting(name, spelt)


def _not_a_setting(name: str, spelt: Mapping[str, str], place: str = "") -> str:
    """Say that a name is unknown, and which of those that are known was probably meant."""
    close = difflib.get_close_matches(name.lower().removeprefix("loco_"), spelt, n=1)
    meant = f"; did you mean {spelt[close[0]]}?" if close else ""
    return f"{_shown(name)}{place} is not a setting of loco-otel{meant}"


def _faults(error: ValidationError, given: Mapping[str, _Given]) -> Iterable[str]:
    for detail in error.errors(include_url=False):
        key, *rest = detail["loc"]
        written = given[str(key)]
        allowed = str(Settings.model_fields[str(key)].description)
        if key in _TABLES and rest:
            written, allowed = written.item(rest[0]), _TABLES[str(key)]
            if isinstance(written.value, Mapping):  # TOML takes gpt-4.1 for a 1 in gpt-4
                allowed += " (put a name with a dot in quotes)"
        elif key == "prices" and rest:
            written, allowed = written.item(rest[0]), _PRICE
        elif key == "resources":
            written, allowed = _of_resource(written, rest, detail, allowed)
        if detail["type"] == _TOO_LARGE:
            allowed = detail["msg"]
        yield f"{written}: must be {allowed}"


def _of_resource(written: _Given, rest: Sequence[int | str], detail: ErrorDetails, allowed: str) -> tuple[_Given, str]:
    """Say which resource, by its number, and which key of it is wrong."""
    if not rest:
        return written, f"{allowed} ({detail['msg'].removeprefix('Value error, ')})" if "named" in detail[
            "msg"
        ] else allowed
    number, *keys = rest
    value = written.value
    table = value[int(number)] if isinstance(value, Sequence) and not isinstance(value, str) else value
    written = written._replace(key=f"resources[{int(number) + 1}]", value=table)
    if not keys:
        return written, "a table with a name"
    field = ResourceRule.model_fields.get(str(keys[0]))
    if detail["type"] == "missing":
        return written, "a table with a name"
    return written.item(keys[0]), str(field.description) if field else f"one of {', '.join(ResourceRule.model_fields)}"


def _shown(value: object) -> str:
    """Return a value as the user would write it, in one short line."""
    text = str(value).lower() if value is None or isinstance(value, bool) else _one_line(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _one_line(value: object) -> str:
    return value if isinstance(value, str) and value.isprintable() else repr(value)


def _displayed(key: str, value: object) -> str:
    if key == "capacity" and value is None:
        return "auto"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Mapping):
        value = [name if isinstance(it, Price) else f"{name}={it:.10g}" for name, it in value.items()]
    if isinstance(value, tuple):
        value = [rule.name for rule in value]
    if isinstance(value, list | frozenset):
        return ", ".join(value if isinstance(value, list) else sorted(value)) or "none"
    return _shown(value)
