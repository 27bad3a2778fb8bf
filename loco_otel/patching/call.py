"""One scheduled call, from its description to the end of its body. What both colours of wrapper share."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import SlotSource
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.process import Runtime
from loco_otel._waiting import ownership
from loco_otel.events import MILLI, Request
from loco_otel.patching.adapter import Adapter, CallDescription, ExtendedRequest, UsageMeter
from loco_otel.patching.throttling import read_throttle_signal


class Call:
    """Owns the call's ticket. Dropped without an end, its slot comes back.

    This is all that a call needs whose spending matters to nobody; what else there is, `WeighedCall` adds.
    """

    __slots__ = ("_runtime", "_scope", "adapter", "engine", "extended_request", "sent", "ticket")

    chunk_reader: Callable[[Any, UsageMeter], None] | None = None
    """What is to read each chunk of its stream; None where nobody wants to know what it took."""
    meter = UsageMeter()
    """Nobody's: without a reader nothing is noted in it."""
    inference_context: Context | None = None
    """The context to be current while a chunk is read, where the inference span is ours."""

    def __init__(
        self,
        runtime: Runtime,
        adapter: Adapter,
        description: CallDescription,
        caller: Identity,
        *,
        resources: tuple[str, ...],
        engine: SlotSource,
        weight: int = MILLI,
        tokens: int = 0,
        admission: bool = False,
        settles: bool = True,
        context: object = None,
    ) -> None:
        self._runtime = runtime
        self.engine = engine
        """The engine that its ticket belongs to."""
        self.adapter = adapter
        self.extended_request: ExtendedRequest | None = None
        """What is asked of the provider beyond what the program does."""
        self.sent = False
        """Whether the SDK was let go: from then on it may cost something."""
        request = Request(
            caller.agent,
            weight,
            resources,
            runtime.settings.acquire_timeout,
            admission,
            caller.tenant,
            description.operation,
            description.provider,
            description.model,
            None,  # labels
            settles,
            context,
            tokens,
        )
        self.ticket: Ticket = engine.create_ticket(request)
        ownership.bind_here(self.ticket)

    def submit(self) -> None:
        """Ask for the slot."""
        self.engine.submit(self.ticket)

    def end_wait(self) -> None:
        """Note that it was let in or turned away."""

    def prepare_options(self, options: Any) -> Any:
        """Return what is to be sent: with what we ask for beyond the program."""
        return options if self.extended_request is None else self.extended_request.options

    def enter_sdk_call(self) -> None:
        """Run what follows under this call's slot: the SDK's own request."""
        self._scope = ownership.enter_call(self.ticket)
        self.sent = True

    def exit_sdk_call(self) -> None:
        """Undo `enter`; elsewhere, as where the garbage collector closes a coroutine, there is nothing to undo."""
        ownership.exit_context(self._scope)

    def claim_slot(self) -> None:
        """Let this context hold the slot while the body is open."""
        ownership.add_claim(self.ticket)

    def transfer_claim(self) -> None:
        """Note that somebody else reads the body now."""
        claim = ownership.Claim(self.ticket)
        self.engine.set_scopes(self.ticket, (threading.get_ident(), claim.scope))
        ownership.add_claim(claim)

    def record_first_chunk(self, at: float) -> None:
        """Note when a stream's first chunk came, by the scheduler's clock; harmless for those that follow."""

    def finish_call(self, error: BaseException | None = None) -> None:
        """Settle with what is known, and give the slot back. Harmless when repeated."""
        if self.ticket.state.is_ended:
            return
        if error is None:
            self.engine.release(self.ticket)
        else:
            self.fail_call(error)

    def abandon_call(self) -> None:
        """Do as `finish`, a little later and in another thread: for where the garbage collector may be the caller."""
        if not self.ticket.state.is_ended:
            self.engine.abandon_ticket(self.ticket)

    def fail_call(self, error: BaseException) -> None:
        """Give the slot back after a call that brought no body."""
        if isinstance(error, GeneratorExit):
            # The task was dropped: this may be the garbage collector, in the midst of anything.
            self.abandon_call()
            return
        try:
            self.report_throttle(error)
        finally:
            self.engine.cancel(self.ticket)

    def report_throttle(self, error: BaseException) -> None:
        """Tell the scheduler where an error means that the provider has too much to do."""
        if self.ticket.state is State.SUSPENDED:
            return  # the attempt that failed with it was reported when its pause began
        pushback = read_throttle_signal(
            self.adapter, getattr(error, "response", None), getattr(error, "body", None), error=error
        )
        if pushback is not None:
            self.engine.record_throttling(self.ticket, *pushback)

    def record_answer(self, answer: Any) -> None:
        """Note what a whole answer says."""

    def record_raw_body(self, response: Any) -> None:
        """Note what a body that nobody parsed lets know: its JSON where it is in memory, its length where not."""

    def bypass_after_fault(self, what: str) -> None:
        """Log a fault of ours, and let the user's call go on without a slot."""
        self._runtime.record_fault(what)
        self.cancel_after_fault()

    def cancel_after_fault(self) -> None:
        """Give the slot back after a fault of ours, of which this must not make another."""
        try:
            self.engine.cancel(self.ticket)
        except Exception:
            process.log_fault("giving a slot back")

    def bypass_unsupported(self, what: str) -> None:
        """Count that the call goes on without a slot, because of where it runs."""
        self._runtime.record_unsupported(what)

    @property
    def is_unfinished(self) -> bool:
        """Whether something is still held or unpaid, where it is dropped."""
        return not self.ticket.state.is_ended

    def __del__(self) -> None:
        # A finaliser: runs anywhere, so nothing here locks, logs or wakes. Without a ticket it was never made.
        ticket: Ticket | None = getattr(self, "ticket", None)
        if ticket is not None and ticket.state is not State.NEW and self.is_unfinished:
            with suppress(Exception):
                self.abandon_call()
