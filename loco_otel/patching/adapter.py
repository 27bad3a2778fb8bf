"""The interface that an SDK's folder implements: pure translation, no scheduling, no I/O."""

from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from math import ceil
from typing import Any, NamedTuple, Protocol

from loco_otel.events import MAX_TOKENS, Usage
from loco_otel.money import MICRO, REPORTED_CHARGE, BilledItem

_CHARACTERS_PER_TOKEN = 4
"""Of English text under today's tokenizers; measured estimates are 0.3 (Chinese) to 1.2 (English) times the truth."""

_MAX_CHARGE = 1_000_000
"""USD for one call from which a reported charge is absurd."""

_BYTES_PER_STREAMED_TOKEN = 200
"""Of a raw event stream: a token's event with its JSON envelope."""


class CallDescription(NamedTuple):
    """What a call is about to do."""

    provider: str
    """As `gen_ai.provider.name` has it."""
    operation: str
    """As `gen_ai.operation.name` has it."""
    model: str | None
    body: Mapping[str, object]
    """The JSON that will be sent."""
    url: Any = None
    """Where it will be sent, with `host`, `port` and `scheme`; None where that is not known."""
    has_sdk_span: bool = False
    """Whether the SDK makes the inference span of this call by itself."""
    accepts_model: Callable[[str], bool] | None = None
    """Whether the body can be sent to another model; None if it can be sent to any."""


def accept_no_model(_: str) -> bool:
    """Return False: for bodies that can be sent to one model alone."""
    return False


class ExtendedRequest(NamedTuple):
    """A request that asks for more than the program does."""

    options: Any
    """To send instead of the program's own, which are left as they are."""
    strip_chunk: Callable[[Any], bool]
    """Takes out of a chunk what is there only because of that; True where this is the whole chunk."""


class UsageMeter:
    """Collects the metadata and the token counts of one answer, or what is required to estimate the counts."""

    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    service_tier: str | None = None
    input_tokens: int | None = None
    """Those read from or written to a cache included."""
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    items: dict[str, int] | None = None
    """All else that is billed: amounts by kind of `BilledItem`."""
    characters = 0
    """Of generated text seen so far."""
    raw_bytes = 0
    """Of a body that nobody parsed."""

    @property
    def is_complete(self) -> bool:
        """Whether the provider gave its figures."""
        return self.input_tokens is not None and self.output_tokens is not None

    @property
    def has_started(self) -> bool:
        """Whether the answer has begun."""
        return bool(
            self.characters or self.raw_bytes or self.input_tokens is not None or self.output_tokens is not None
        )

    def set_item(self, kind: str, amount: object) -> None:
        """Note an amount of a kind of `BilledItem`, which replaces an earlier one. No-op for 0 and for no count."""
        if isinstance(amount, int) and 0 < amount <= MAX_TOKENS:
            if self.items is None:
                self.items = {}
            self.items[kind] = amount

    def set_reported_charge(self, usd: object, scale: int = 1) -> None:
        """Note the charge that a provider reports itself. No-op for no number, and for an absurd one.

        Args:
            usd: the charge, in USD divided by `scale`.
            scale: the parts of a USD that it is counted in.

        """
        if isinstance(usd, (int, float)) and 0 <= usd < _MAX_CHARGE * scale:
            if self.items is None:
                self.items = {}
            micros = Decimal(str(usd)) * MICRO / scale
            self.items[REPORTED_CHARGE] = int(micros.to_integral_value(ROUND_CEILING))

    def compute_usage(self, prompt_tokens: int) -> Usage:
        """Return the provider's figures; where one is missing or impossible, an estimate from what was seen."""
        input_tokens, output_tokens = _read_count(self.input_tokens), _read_count(self.output_tokens)
        is_estimated = input_tokens is None or output_tokens is None
        if input_tokens is None:
            input_tokens = prompt_tokens
        if output_tokens is None:
            output_tokens = -(-self.characters // _CHARACTERS_PER_TOKEN) or (
                self.raw_bytes // _BYTES_PER_STREAMED_TOKEN
            )
        return Usage(
            input_tokens,
            output_tokens,
            is_estimated,
            _read_count(self.cache_read_tokens),
            _read_count(self.cache_write_tokens),
            _read_count(self.reasoning_tokens),
            () if self.items is None else tuple([BilledItem(*item) for item in self.items.items()]),
        )


class Adapter(Protocol):
    """One SDK. `Any` stands for the SDK's own objects, and for plain JSON where a body was read raw."""

    sdk: str
    """The SDK's import name."""

    def describe_call(self, client: Any, options: Any) -> CallDescription | None:
        """Describe a request; return None if it calls no model."""

    def request_usage(self, options: Any) -> ExtendedRequest | None:
        """Return a request that asks for the usage of its stream; None if it contains it anyway, or must not change."""

    def with_model(self, options: Any, model: str | None) -> Any:
        """Return a request that is sent with another model; the program's own options are left as they are."""

    def read_answer(self, answer: Any, meter: UsageMeter) -> None:
        """Read the usage of a whole answer."""

    def read_chunk(self, chunk: Any, meter: UsageMeter) -> None:
        """Read one event of a stream. On the hot path: once per chunk."""

    def read_usage(self, chunk: Any, meter: UsageMeter) -> None:
        """Read only the usage that the provider reports in one event. Called instead if nothing observes the call."""

    def is_spend_limit(self, error: Mapping[str, object]) -> bool:
        """Tell from the JSON of a 429 whether money has run out, rather than room."""

    def read_error_status(self, error: Mapping[str, object]) -> int | None:
        """Return the HTTP status of an error whose JSON came within a stream; None where it is not about load."""


def _read_count(value: object) -> int | None:
    """Return a count of tokens, and None for anything else that a server may send."""
    if isinstance(value, (int, float)) and 0 <= value <= MAX_TOKENS:
        return ceil(value)
    return None


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return a parsed object's fields without asking for one that it may lack, which is slow on pydantic models."""
    return value if isinstance(value, dict) else getattr(value, "__dict__", {})


def get_field(value: Any, name: str) -> Any:
    """Return a field of a parsed object, whether its class declares it or the provider added it; None without it."""
    # As `as_mapping`, without its call: some chunks of streams are asked for two fields each.
    known = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    if name in known:
        return known[name]
    added = getattr(value, "__pydantic_extra__", None)
    return added.get(name) if added else None


def merge_fields(value: Any) -> Mapping[str, Any]:
    """Return a parsed object's fields, those included that its class does not declare."""
    known, added = as_mapping(value), getattr(value, "__pydantic_extra__", None)
    return {**known, **added} if added else known
