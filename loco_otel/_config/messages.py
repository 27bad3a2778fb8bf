"""Error messages and display texts of settings."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from loco_otel._config.budget_rules import BudgetRule
from loco_otel._config.engine_rules import hide_password
from loco_otel._config.resource_rules import ResourceRule
from loco_otel._config.run_limits import RunLimits
from loco_otel._config.validators import SELF_DESCRIBED

_MAX_VALUE_LENGTH = 80


class RawSetting(NamedTuple):
    """A value as it was written, and its source."""

    value: object
    key: str
    origin: str
    place: str = ""
    """Follows the value in a message if the key alone does not identify the source."""

    def __str__(self) -> str:
        return (
            f"{self.key}={format_value(hide_password(str(self.value)) if self.is_secret else self.value)}{self.place}"
        )

    @property
    def is_secret(self) -> bool:
        """Whether the value may contain a password."""
        return self.key.lower().endswith(("engine", "ledger"))

    def get_item(self, key: object) -> Self:
        """Return one entry of a table."""
        value = self.value.get(key) if isinstance(self.value, Mapping) else self.value
        return self._replace(key=f"{self.key}.{format_value(key)}", value=value)


def describe_unknown_setting(name: str, spelt: Mapping[str, str], place: str = "") -> str:
    """Return the message of an unknown setting, with the most similar known one."""
    import difflib  # noqa: PLC0415 - only for a fault

    close = difflib.get_close_matches(name.lower().removeprefix("loco_"), spelt, n=1)
    meant = f"; did you mean {spelt[close[0]]}?" if close else ""
    return f"{format_value(name)}{place} is not a setting of loco-otel{meant}"


TABLE_ENTRIES = {
    "weights": "a number above 0",
    "shares": "a number from 0.001 to 1000",
    "tenant_shares": "a number from 0.001 to 1000",
    "priority": "interactive, normal or background, each a table with share (0.001 to 1000), ceiling (slots, a"
    ' percentage such as "75%", or "none") and strict (true or false)',
    "prices": "a table with input and output, and perhaps cache_read and cache_write: USD per million tokens, from 0",
    "providers": "the name of a provider",
    "downgrade": "a list of models, the next cheaper one first, without the model itself",
}
"""Settings that are tables of names, and the allowed values of an entry."""
NUMBER_TABLES = ("weights", "shares", "tenant_shares")
_RULE_TYPES: Mapping[str, tuple[type[BaseModel], str]] = {
    "resources": (ResourceRule, "a table with a name"),
    "budgets": (BudgetRule, "a table with a limit"),
}
"""Settings that are lists of tables, and the minimum that each must contain."""


def describe_errors(
    error: ValidationError, given: Mapping[str, RawSetting], fields: Mapping[str, FieldInfo]
) -> Iterable[str]:
    """Yield a message for each error, with the value as it was written and the allowed values."""
    for detail in error.errors(include_url=False):
        key, *rest = detail["loc"]
        name = str(key)
        written = given[name]
        allowed = str(fields[name].description)
        if name in TABLE_ENTRIES and rest:
            written, allowed = written.get_item(rest[0]), TABLE_ENTRIES[name]
            if name in NUMBER_TABLES and isinstance(written.value, Mapping):  # TOML reads gpt-4.1 as the key 1 in gpt-4
                allowed += " (put a name with a dot in quotes)"
        elif name == "run_limits":
            written, allowed = _locate_run_limit_error(written, rest, detail, allowed)
        elif name in _RULE_TYPES:
            written, allowed = _locate_rule_error(name, written, rest, detail, allowed)
        if detail["type"] in SELF_DESCRIBED:
            allowed = detail["msg"]
        yield f"{written}: must be {allowed}"


def _locate_run_limit_error(
    written: RawSetting, rest: Sequence[int | str], detail: ErrorDetails, allowed: str
) -> tuple[RawSetting, str]:
    """Return the invalid limit of a run, and its allowed values."""
    if not rest:
        reason = detail["msg"].removeprefix("Value error, ")
        return written, f"{allowed} ({reason})" if detail["type"] == "value_error" else allowed
    name = str(rest[0])
    field = RunLimits.model_fields.get(name)
    if field is None:
        return written, f"of {', '.join(RunLimits.model_fields)}, and {name} is not"
    if isinstance(written.value, str):  # all limits in one line
        return written, f"{allowed}; {name} is {field.description}"
    return written.get_item(name), str(field.description)


def _locate_rule_error(
    name: str, written: RawSetting, rest: Sequence[int | str], detail: ErrorDetails, allowed: str
) -> tuple[RawSetting, str]:
    """Return the invalid table, by its number, and the allowed values of its invalid key."""
    reason = detail["msg"].removeprefix("Value error, ")
    if not rest:
        return written, f"{allowed} ({reason})" if detail["type"] == "value_error" else allowed
    number, *keys = rest
    rule, least = _RULE_TYPES[name]
    value = written.value
    if isinstance(value, str):  # all rules in one line
        return written, allowed
    table = value[int(number)] if isinstance(value, Sequence) else value
    written = written._replace(key=f"{name}[{int(number) + 1}]", value=table)
    if detail["type"] == "missing":
        return written, least
    if not keys:
        return written, f"{least} ({reason})" if detail["type"] == "value_error" else least
    field = rule.model_fields.get(str(keys[0]))
    return written.get_item(keys[0]), str(field.description) if field else f"one of {', '.join(rule.model_fields)}"


def format_value(value: object) -> str:
    """Return a value in the form of the settings, on one short line."""
    text = str(value).lower() if value is None or isinstance(value, bool) else format_single_line(value)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def format_single_line(value: object) -> str:
    """Return a value without line breaks."""
    return value if isinstance(value, str) and value.isprintable() else repr(value)


def format_setting(key: str, value: object) -> str:
    """Return a setting's value for display, in the form of the settings."""
    if key == "capacity" and value is None:
        return "auto"
    if key in {"engine", "ledger"} and value is not None:
        return format_value(hide_password(str(value)))
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, RunLimits):
        return str(value)
    if isinstance(value, Mapping):
        value = [_format_entry(name, it) for name, it in value.items()]
    if isinstance(value, tuple):
        value = [rule.name if isinstance(rule, ResourceRule) else str(rule) for rule in value]
    if isinstance(value, list | frozenset):
        return ", ".join(value if isinstance(value, list) else sorted(value)) or "none"
    return format_value(value)


def _format_entry(name: str, value: BaseModel | float | tuple[str, ...]) -> str:
    if isinstance(value, BaseModel):
        return str(name)
    return f"{name}={value:.10g}" if isinstance(value, float) else " > ".join((name, *value))
