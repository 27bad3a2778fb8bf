"""A call of an adapter whose answer is still being read: its slot is released when the answer's body ends.

Bodies are followed as those of patched calls, see `patching/response_body.py`.
"""

import threading
from collections.abc import Callable
from typing import Any

from loco_otel._core.ticket import Ticket
from loco_otel._engine.base import SlotSource
from loco_otel._waiting import ownership
from loco_otel.compat.lease import Lease
from loco_otel.patching.adapter import UsageMeter


class LeasedCall:
    """See `patching.followed_call.FollowedCall`. If it is dropped before its end, its lease is released.

    Args:
        sdk: the SDK's import name.
        lease: an entered lease.
        read_chunk: reads the usage of one event of a stream.
        record_tokens: called with the tokens of prompt and answer.
        prompt_tokens: the estimate that replaces the provider's count, if the stream contains none.

    """

    extended_request = None
    inference_context = None

    def __init__(
        self,
        sdk: str,
        lease: Lease,
        read_chunk: Callable[[Any, UsageMeter], None],
        record_tokens: Callable[[int], None],
        prompt_tokens: int = 0,
    ) -> None:
        assert lease.ticket is not None  # noqa: S101 - it is entered
        self._lease = lease
        self._record_tokens = record_tokens
        self._prompt_tokens = prompt_tokens
        self.sdk = sdk
        self.ticket: Ticket = lease.ticket
        self.engine: SlotSource = lease.engine
        self.meter = UsageMeter()
        self.chunk_reader: Callable[[Any, UsageMeter], None] | None = read_chunk

    def claim_slot(self) -> None:
        """Make this context a holder of the slot while the body is open."""
        ownership.add_claim(self.ticket)

    def transfer_claim(self) -> None:
        """Record that another thread or task reads the body from now on."""
        claim = ownership.Claim(self.ticket)
        self.engine.set_scopes(self.ticket, (threading.get_ident(), claim.scope))
        ownership.add_claim(claim)

    def record_first_chunk(self, at: float) -> None:
        """Do nothing: a lease has no inference span."""

    def record_answer(self, answer: Any) -> None:
        """Do nothing: the tokens of whole answers are recorded where they are returned."""

    def record_raw_body(self, response: Any) -> None:
        """Do nothing."""

    def finish_call(self, error: BaseException | None = None) -> None:
        """Record the tokens of the stream, and end the lease. Idempotent."""
        if self.ticket.state.is_ended:
            return
        if self.meter.has_started:
            usage = self.meter.compute_usage(self._prompt_tokens)
            self._record_tokens(usage.input_tokens + usage.output_tokens)
        self._lease.end_now(error)

    def abandon_call(self) -> None:
        """Release the lease later, in another thread."""
        self._lease.end_lease(GeneratorExit())
