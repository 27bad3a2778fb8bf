"""What the body of an answer requires of the call that it ends: of a patched one, and of an adapter's."""

from collections.abc import Callable
from typing import Any, Protocol

from opentelemetry.context import Context

from loco_otel._core.ticket import Ticket
from loco_otel._engine.base import SlotSource
from loco_otel.patching.adapter import ExtendedRequest, UsageMeter


class FollowedCall(Protocol):
    """A call whose answer is being read."""

    @property
    def ticket(self) -> Ticket:
        """Its ticket."""

    @property
    def engine(self) -> SlotSource:
        """The engine that owns the ticket."""

    @property
    def sdk(self) -> str:
        """The SDK's import name."""

    @property
    def extended_request(self) -> ExtendedRequest | None:
        """What was requested from the provider in addition to the program's request."""

    @property
    def meter(self) -> UsageMeter:
        """The meter that its chunk reader writes to."""

    @property
    def chunk_reader(self) -> Callable[[Any, UsageMeter], None] | None:
        """What reads each chunk of its stream; None if nothing depends on its usage."""

    @property
    def inference_context(self) -> Context | None:
        """The context to attach while a chunk is read."""

    def claim_slot(self) -> None:
        """Make this context a holder of the slot while the body is open."""

    def transfer_claim(self) -> None:
        """Record that another thread or task reads the body from now on."""

    def record_first_chunk(self, at: float) -> None:
        """Record the time of a stream's first chunk, by the scheduler's clock. No-op for later chunks."""

    def record_answer(self, answer: Any) -> None:
        """Read the usage of a whole answer."""

    def record_raw_body(self, response: Any) -> None:
        """Read the usage of a body that was not parsed."""

    def finish_call(self, error: BaseException | None = None) -> None:
        """Settle what is known of the usage, and release the slot. Idempotent."""

    def abandon_call(self) -> None:
        """Do as `finish_call`, for callers that the garbage collector may run."""
