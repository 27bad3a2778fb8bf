"""Checks of how a call of an SDK has ended: its slot, its spending, its spans."""

from typing import Any

from opentelemetry.trace import StatusCode
from sdk_calls import Sdk
from sdk_scheduling import Scheduling

from loco_otel.events import Spent

STALL = 5.0
"""Seconds for which a scripted stream pauses; no test waits for its end."""


def check_end(scheduling: Scheduling, error: str | None = None, *, spent: bool = True) -> None:
    """Check the end of the only call: its slot, its spending, its span."""
    scheduling.settled(1)
    spendings = scheduling.seen.of(Spent)
    assert len(spendings) == spent
    if spent:
        usage = spendings[0].spending.usage
        assert usage is not None
        assert usage.estimated
    (span,) = scheduling.spans("call ")
    if error is None:
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in (span.attributes or {})
    else:
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == error


def name_error(error: BaseException) -> str:
    """Return the `error.type` of what the program got: SDKs name it differently, in the course of their versions."""
    return f"{type(error).__module__}.{type(error).__qualname__}"


class Raised(Exception):
    """The program's own error."""


def list_arguments(sdk: Sdk) -> dict[str, Any]:
    """Return the arguments of a call of `Sdk.ask`."""

    class Caught:
        def create(self, **arguments: Any) -> dict[str, Any]:
            return arguments

        completions = messages = property(lambda self: self)
        chat = property(lambda self: self)

    arguments: dict[str, Any] = sdk.ask(Caught())
    return arguments


def request_streaming_response(sdk: Sdk, client: Any) -> Any:
    calls = client.chat.completions if sdk.name == "openai" else client.messages
    return calls.with_streaming_response.create(**list_arguments(sdk), stream=True)


def list_failed_spans(scheduling: Scheduling, name: str) -> list[Any]:
    return [span for span in scheduling.spans(name) if span.status.status_code is StatusCode.ERROR]
