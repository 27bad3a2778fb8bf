"""One scheduled call, from its description to the end of its body. The sync and the async wrapper share it."""

from collections.abc import Callable
from contextlib import suppress
from contextvars import Token
from typing import Any

from opentelemetry.context import Context

from loco_otel._budgets.run_table import ToolCall
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import SlotSource
from loco_otel._runtime import faults
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.runtime import Runtime
from loco_otel._telemetry import CallTrace
from loco_otel._telemetry.current_context import attach, detach
from loco_otel._waiting import ownership
from loco_otel.events import MILLI, Priority, Request
from loco_otel.patching.accounting import CallAccounting
from loco_otel.patching.adapter import Adapter, CallDescription, ExtendedRequest, UsageMeter
from loco_otel.patching.throttling import read_throttle_signal

_IN_FLIGHT_STATES = (State.GRANTED, State.RELEASED)
_NORMAL = Priority.NORMAL  # bound once: on 3.11 each access to an enum's member costs as much as a call
_UNREAD_METER = UsageMeter()
"""Shared by all calls without an accounting. Without a chunk reader nothing writes to it."""


class Call:
    """Owns the call's ticket. If it is dropped before its end, its slot is released and its usage is settled.

    Args:
        accounting: the weight and the cost of the call; None if nothing depends on them.
        trace: the telemetry of the call; None if nothing observes it.
        is_nested: whether it runs under a slot of the program's own. Then it has no settlement after the grant.
        tool_calls: what the model asked for in the turn that it continues, if that is counted.

    """

    __slots__ = (
        *(
            "_context_token",
            "_outer",
            "_runtime",
            "_tool_calls",
            "accounting",
            "adapter",
            "engine",
            "extended_request",
            "sent",
        ),
        *("ticket", "trace"),
    )

    _context_token: Token[Context] | None

    def __init__(
        self,
        runtime: Runtime,
        adapter: Adapter,
        description: CallDescription,
        caller: Identity,
        *,
        resources: tuple[str, ...],
        engine: SlotSource,
        accounting: CallAccounting | None = None,
        trace: CallTrace | None = None,
        is_nested: bool = False,
        tool_calls: tuple[ToolCall, ...] = (),
    ) -> None:
        self._runtime = runtime
        self._tool_calls = tool_calls
        self.engine = engine
        """The engine that owns the ticket."""
        self.adapter = adapter
        self.accounting = accounting
        self.trace = trace
        self.extended_request: ExtendedRequest | None = None
        """What is requested from the provider in addition to the program's request."""
        self.sent = False
        """Whether the SDK's own request has begun: from then on the call may cost something."""
        request = Request(
            caller.agent,
            MILLI if accounting is None else accounting.weight,
            resources,
            runtime.settings.acquire_timeout,
            False if accounting is None else accounting.needs_admission,
            caller.tenant,
            description.operation,
            description.provider,
            description.model,
            None,  # labels
            not is_nested,  # settles
            trace,
            0 if accounting is None else accounting.tokens,
            caller.run,
            caller.priority or _NORMAL,
            caller.deadline,
            caller.session,
            caller.workflow,
        )
        self.ticket: Ticket = engine.create_ticket(request)
        self.ticket.engine = engine
        self.ticket.scopes = ownership.list_reader_scopes(self.ticket)
        if accounting is not None:
            accounting.bind_ticket(self.ticket)

    @property
    def sdk(self) -> str:
        """The SDK's import name."""
        return self.adapter.sdk

    @property
    def meter(self) -> UsageMeter:
        """The meter that its chunk reader writes to."""
        return _UNREAD_METER if self.accounting is None else self.accounting.meter

    @property
    def chunk_reader(self) -> Callable[[Any, UsageMeter], None] | None:
        """What reads each chunk of its stream; None if nothing depends on its usage."""
        return None if self.accounting is None else self.accounting.chunk_reader

    @property
    def inference_context(self) -> Context | None:
        """The context to attach while a chunk is read; None if the inference span is not ours."""
        return None if self.trace is None or self.trace.inference_span is None else self.trace.inference_span.context

    @property
    def is_unfinished(self) -> bool:
        """Whether it holds a slot, or has an open reservation for a request that was sent."""
        if not self.ticket.state.is_ended:
            return True
        # `max_hold` ends the ticket of a call whose settlement is still to come.
        return self.sent and self.accounting is not None and self.accounting.is_open

    @property
    def _is_in_flight(self) -> bool:
        """Whether the provider has a request of it, or had one when its slot was taken back."""
        return self.sent and self.ticket.state in _IN_FLIGHT_STATES

    def submit(self) -> None:
        """Request the slot. A call that has to wait is rejected as soon as its budgets can never admit it."""
        governor = self._runtime.governor
        if governor.is_active:
            governor.submit(self.engine, self.ticket, self._tool_calls)
        else:
            self.engine.submit(self.ticket)
            if governor.has_stops:  # since a moment ago
                governor.recheck_waiter(self.ticket)
        if self.accounting is not None:
            self.accounting.begin_wait()

    def raise_if_stopped(self) -> None:
        """Raise if the call was stopped since it was checked.

        Raises:
            StoppedError: it was. The caller fails the call.

        """
        governor = self._runtime.governor
        if governor.has_stops:
            governor.raise_if_stopped(self.ticket)

    def end_wait(self) -> None:
        """Record that it was granted or rejected."""
        if self.accounting is not None:
            self.accounting.end_wait()

    def drop_reservation(self) -> None:
        """End what another thread has reserved, or is about to, for a call that is cancelled before it is sent."""
        if self.accounting is not None:
            self.accounting.settle_in_finalizer(sent=False)

    def prepare_options(self, options: Any) -> Any:
        """Return the options to send: with the extended request, and with the model that its budgets allow."""
        if self.extended_request is not None:
            options = self.extended_request.options
        return options if self.accounting is None else self.accounting.replace_model(options)

    def enter_sdk_call(self) -> None:
        """Begin the SDK's own request, under this call's slot and span."""
        self._outer = ownership.enter_call(self.ticket)
        self.sent = True
        if self.trace is not None:
            self._context_token = None
            self._begin_inference(self.trace)

    def _begin_inference(self, trace: CallTrace) -> None:
        ticket = self.ticket
        try:
            model = None if self.accounting is None else self.accounting.sent_model
            if model is not None:
                trace.set_sent_model(model)
            trace.add_wait(ticket.granted_at - ticket.waiting_since)
            context = trace.begin_inference(ticket.request.agent, self.engine.read_clock())
        except Exception:
            faults.log_fault("beginning an inference span")
            return
        if context is not trace.caller_context:
            self._context_token = attach(context)

    def exit_sdk_call(self) -> None:
        """Undo `enter_sdk_call`. No-op in another context, as where the garbage collector closes a coroutine."""
        is_here = ownership.exit_call(self.ticket, self._outer)
        if is_here and self.trace is not None and self._context_token is not None:
            detach(self._context_token)

    def claim_slot(self) -> None:
        """Make this context a holder of the slot while the body is open."""
        ownership.add_claim(self.ticket)

    def transfer_claim(self) -> None:
        """Record that another thread or task reads the body from now on."""
        claim = ownership.Claim(self.ticket)
        self.engine.set_scopes(self.ticket, ownership.list_reader_scopes(claim.scope))
        ownership.add_claim(claim)

    def record_first_chunk(self, at: float) -> None:
        """Record the time of a stream's first chunk, by the scheduler's clock. No-op for later chunks."""
        trace = self.trace
        if trace is not None and trace.inference_span is not None and trace.inference_span.first_chunk_at is None:
            trace.inference_span.first_chunk_at = at

    def record_answer(self, answer: Any) -> None:
        """Read the usage of a whole answer."""
        if self.accounting is not None:
            self.accounting.record_answer(answer)

    def record_raw_body(self, response: Any) -> None:
        """Read the usage of a body that was not parsed: its JSON if that is in memory, else its length."""
        if self.accounting is not None:
            self.accounting.record_raw_body(response)

    def finish_call(self, error: BaseException | None = None) -> None:
        """Settle what is known of the usage, and release the slot. Idempotent."""
        ticket, accounting = self.ticket, self.accounting
        is_ended = ticket.state.is_ended
        # Also of a ticket that `max_hold` has ended: its usage is spent all the same.
        spending = None if accounting is None else accounting.settle(error)
        if is_ended:
            return
        if error is None:
            self.engine.release(ticket, spending)
            return
        if self.trace is not None:
            self.trace.record_error(error)
        try:
            self.report_throttle(error)
        finally:
            self.engine.cancel(ticket, spending)

    def abandon_call(self) -> None:
        """Do as `finish_call`, later and in another thread: for callers that the garbage collector may run."""
        spending = None if self.accounting is None else self.accounting.settle_in_finalizer(sent=self._is_in_flight)
        if not self.ticket.state.is_ended:
            self.engine.abandon_ticket(self.ticket, spending)

    def fail_call(self, error: BaseException) -> None:
        """Release the slot after a call that returned no body."""
        if self.trace is not None and not self.ticket.state.is_ended:
            # First, as the listeners receive a rejection before the caller does.
            self.trace.record_error(error)
        if isinstance(error, GeneratorExit):
            # The task was dropped: the garbage collector may run this between any two instructions.
            self.abandon_call()
            return
        spending = None
        try:
            self.report_throttle(error)
            if self.accounting is not None:
                spending = self.accounting.settle_failure(error, sent=self._is_in_flight)
        finally:
            self.engine.cancel(self.ticket, spending)

    def report_throttle(self, error: BaseException) -> None:
        """Report to the scheduler an error that means that the provider is overloaded."""
        if self.ticket.state is State.SUSPENDED:
            return  # the attempt that failed with it was reported when its pause began
        signal = read_throttle_signal(
            self.adapter, getattr(error, "response", None), getattr(error, "body", None), error=error
        )
        if signal is not None:
            self.engine.record_throttling(self.ticket, *signal)

    def bypass_after_fault(self, what: str) -> None:
        """Log a fault of ours, and continue the user's call without a slot."""
        self._runtime.record_fault(what)
        self.cancel_after_fault()
        self._end_call_span()

    def bypass_unsupported(self, what: str) -> None:
        """Count a call that continues without a slot because of the event loop that it runs on."""
        self._runtime.record_unsupported(what)
        self._end_call_span()

    def cancel_after_fault(self) -> None:
        """Release the reservation and the slot after a fault of ours. Never raises."""
        if self.accounting is not None:
            self.accounting.cancel_after_fault()
        try:
            self.engine.cancel(self.ticket)
        except Exception:
            faults.log_fault("giving a slot back")

    def _end_call_span(self) -> None:
        if self.trace is not None and self.trace.call_span is not None:
            self.trace.call_span.end_span()

    def __del__(self) -> None:
        # A finaliser may run between any two instructions: no locks, no logs, no wake-ups here.
        # The ticket is missing if the constructor failed.
        ticket: Ticket | None = getattr(self, "ticket", None)
        if ticket is not None and ticket.state is not State.NEW and self.is_unfinished:
            with suppress(Exception):
                self.abandon_call()
