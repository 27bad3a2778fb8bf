"""A call that is weighed, told of and paid for: what a scheduled call has beyond its slot."""

import json
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context

from loco_otel._budgets.reservation import ActualCost, Settlement
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.nested import NestedEngine
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.process import Runtime
from loco_otel._telemetry import InferenceRequest
from loco_otel._telemetry.current_context import attach, detach
from loco_otel._telemetry.foreign_instrumentors import has_foreign_wrapper
from loco_otel._waiting import ownership
from loco_otel.events import Spending
from loco_otel.patching.adapter import Adapter, CallDescription, UsageMeter
from loco_otel.patching.call import Call
from loco_otel.patching.estimates import create_reservation
from loco_otel.patching.model_tiers import estimate_weight
from loco_otel.patching.request_size import estimate_tokens
from loco_otel.patching.throttling import is_caller_gone

_IN_FLIGHT_STATES = (State.GRANTED, State.RELEASED)
_MAX_PARSED_BYTES = 32_768
"""Bytes of a raw answer that are parsed for their usage alone, where nobody listens."""


class AccountedCall(Call):
    """Dropped without an end, it is settled with what was seen."""

    __slots__ = ("_context_token", "_prompt_tokens", "_spending", "meter", "needs_admission", "reservation", "trace")

    meter: UsageMeter

    def __init__(
        self,
        runtime: Runtime,
        adapter: Adapter,
        description: CallDescription,
        caller: Identity,
        *,
        resources: tuple[str, ...],
        wrapped: Any,
        is_nested: bool,
    ) -> None:
        provider, operation, model, body, url, told_below = description
        agent = caller.agent
        self.meter = UsageMeter()
        self._spending: Spending | None = None
        self.needs_admission = runtime.budgets.has_budgets
        """Whether budgets have to let it in."""
        self._prompt_tokens = estimate_tokens(body)
        expected = runtime.averages.predict_usage(agent, model, self._prompt_tokens)
        tokens = expected.input_tokens + expected.output_tokens
        self.reservation = create_reservation(runtime, caller, description, resources, self._prompt_tokens)
        """Pays for it, where anybody wants to know what it takes."""
        self.trace = runtime.capture_trace()
        if self.trace is not None:
            subject = InferenceRequest(operation, provider, model, url, body)
            self.trace.begin_call(agent, subject, has_sdk_span=told_below or has_foreign_wrapper(wrapped))
        super().__init__(
            runtime,
            adapter,
            description,
            caller,
            resources=resources,
            engine=NestedEngine(runtime.engine) if is_nested else runtime.engine,
            weight=estimate_weight(model, tokens, runtime.settings.weights),
            tokens=tokens,
            admission=self.needs_admission,
            settles=not is_nested,  # its settlement follows the grant: under a slot of the program's own there is none
            context=self.trace,
        )
        if self.needs_admission and self.reservation is not None:
            self.ticket.admission = self.reservation.admit_call

    def submit(self) -> None:
        """Ask for the slot; a call that has to wait for it is turned away if its budgets will never let it in."""
        super().submit()
        if self.needs_admission and self.ticket.state is State.WAITING and self.reservation is not None:
            self.reservation.begin_wait(self.ticket)

    def end_wait(self) -> None:
        """Note that it was let in or turned away."""
        if self.needs_admission:
            self._runtime.budgets.untrack_waiter(self.ticket)

    def prepare_options(self, options: Any) -> Any:
        """Return what is to be sent: with what we ask for beyond the program, and the model that its budgets leave."""
        options = super().prepare_options(options)
        purchase = self.reservation
        if purchase is not None and purchase.model != self.ticket.request.model:
            try:
                options = self.adapter.with_model(options, purchase.model)
            except Exception:
                process.log_fault("sending a call with a cheaper model")
        return options

    def enter_sdk_call(self) -> None:
        """Run what follows under this call's span too."""
        super().enter_sdk_call()
        self._context_token = None
        trace = self.trace
        if trace is not None:
            ticket = self.ticket
            try:
                model = self._sent_model
                if model is not None:
                    trace.set_sent_model(model)
                trace.add_wait(ticket.granted_at - ticket.waiting_since)
                context = trace.begin_inference(ticket.request.agent, self.engine.read_clock())
            except Exception:
                process.log_fault("beginning an inference span")
                return
            if context is not trace.caller_context:
                self._context_token = attach(context)

    def exit_sdk_call(self) -> None:
        """Undo `enter`; elsewhere, as where the garbage collector closes a coroutine, there is nothing to undo."""
        if ownership.exit_context(self._scope) and self._context_token is not None:
            detach(self._context_token)

    @property
    def inference_context(self) -> Context | None:  # type: ignore[override] # it is only ever asked for
        """The context to be current while a chunk is read, where the inference span is ours."""
        return None if self.trace is None or self.trace.inference_span is None else self.trace.inference_span.context

    def record_first_chunk(self, at: float) -> None:
        """Note when a stream's first chunk came, by the scheduler's clock; harmless for those that follow."""
        trace = self.trace
        if trace is not None and trace.inference_span is not None and trace.inference_span.first_chunk_at is None:
            trace.inference_span.first_chunk_at = at

    @property
    def chunk_reader(self) -> Callable[[Any, UsageMeter], None]:  # type: ignore[override] # it is only ever asked for
        """What is to read each chunk of its stream."""
        return self.adapter.read_chunk if self._is_measured else self.adapter.read_usage

    @property
    def _is_measured(self) -> bool:
        """Whether an answer that does not tell its tokens is to be measured."""
        return self.engine.observed or self._runtime.budgets.is_counting

    @property
    def _sent_model(self) -> str | None:
        """The model that it is sent with, where that is not the one that the program named."""
        purchase, asked = self.reservation, self.ticket.request.model
        return purchase.model if purchase is not None and purchase.model != asked else None

    @property
    def _is_in_flight(self) -> bool:
        """Whether an attempt of it is with the provider, or was when its slot was taken back."""
        return self.sent and self.ticket.state in _IN_FLIGHT_STATES

    def finish_call(self, error: BaseException | None = None) -> None:
        """Settle with what the meter has, and give the slot back. Harmless when repeated."""
        ticket = self.ticket
        if ticket.state.is_ended:
            # Taken back for want of a sign of life: what it took is spent all the same.
            self._settle_once(error)
            return
        spending = self._settle_once(error)
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
        """Do as `finish`, a little later and in another thread: for where the garbage collector may be the caller."""
        ticket, purchase = self.ticket, self.reservation
        spending = None
        if purchase is not None and purchase.is_open:
            if self._is_in_flight:
                spending = self._spending = self._settle_usage(purchase.settle_in_finalizer)
            else:
                purchase.settle_in_finalizer(ticket, None)
        if not ticket.state.is_ended:
            self.engine.abandon_ticket(ticket, spending)

    def fail_call(self, error: BaseException) -> None:
        """Give the slot back after a call that brought no body.

        Nothing was spent, unless nobody stayed to hear the answer: providers go on and bill it. Its prompt is charged,
        as an estimate.
        """
        engine, ticket = self.engine, self.ticket
        if self.trace is not None and not ticket.state.is_ended:
            # A rejection is told as what it is, whether the caller or the listeners hear of it first.
            self.trace.record_error(error)
        if isinstance(error, GeneratorExit):
            # The task was dropped: this may be the garbage collector, in the midst of anything.
            self.abandon_call()
            return
        spending = None
        try:
            self.report_throttle(error)
            # An answer that was whole, and that the SDK refused to parse: it was paid for.
            answer = getattr(error, "completion", None)
            if answer is not None:
                self.record_answer(answer)
                spending = self._settle_once(error)
            elif self._is_in_flight and is_caller_gone(error):
                spending = self._settle_once(error)
            elif self.reservation is not None:
                self.reservation.cancel(ticket)
        finally:
            engine.cancel(ticket, spending)

    def record_answer(self, answer: Any) -> None:
        """Note what a whole answer says."""
        try:
            self.adapter.read_answer(answer, self.meter)
        except Exception:
            process.log_fault("reading an answer")

    def record_raw_body(self, response: Any) -> None:
        """Note what a body that nobody parsed lets know: its JSON where it is in memory, its length where not."""
        if self.meter.output_tokens is None and not self.meter.characters:
            content = getattr(response, "_content", None)
            if not self._is_measured and (content is None or len(content) > _MAX_PARSED_BYTES):
                return
            if content is None:
                size = getattr(response, "num_bytes_downloaded", 0)
            else:
                size = len(content)
                try:
                    self.record_answer(json.loads(content))
                except ValueError:
                    pass
                else:
                    return
            if "event-stream" in response.headers.get("content-type", ""):
                self.meter.raw_bytes = size
            else:
                self.meter.characters = size

    def bypass_after_fault(self, what: str) -> None:
        """Log a fault of ours, and let the user's call go on without a slot."""
        super().bypass_after_fault(what)
        self._end_call_span()

    def cancel_after_fault(self) -> None:
        """Give the slot back after a fault of ours, of which this must not make another."""
        try:
            if self.reservation is not None:
                self.reservation.cancel(self.ticket)
        except Exception:
            process.log_fault("giving a reservation back")
        super().cancel_after_fault()

    def bypass_unsupported(self, what: str) -> None:
        """Count that the call goes on without a slot, because of where it runs."""
        super().bypass_unsupported(what)
        self._end_call_span()

    def _end_call_span(self) -> None:
        if self.trace is not None and self.trace.call_span is not None:
            self.trace.call_span.end_span()

    def _settle_once(self, error: BaseException | None) -> Spending | None:
        """Pay for what it took, once, and return that.

        A call that the provider answered with nothing but an error took nothing.
        """
        purchase = self.reservation
        if purchase is None or not purchase.is_open:
            return self._spending
        if error is not None and not self.meter.has_started and getattr(error, "body", None) is not None:
            purchase.cancel(self.ticket)
            return None
        self._spending = self._settle_usage(purchase.settle_cost)
        return self._spending

    def _settle_usage(self, pay: Callable[[Ticket, ActualCost], Settlement]) -> Spending | None:
        """Learn from what it took, and pay for it; None for a fault of ours, which must not keep the slot.

        Real tokens replace the weight that it was granted with; where they are estimates, that one stands.
        """
        runtime, meter, request = self._runtime, self.meter, self.ticket.request
        try:
            usage = meter.compute_usage(self._prompt_tokens)
            weight, sent = request.weight, self._sent_model
            model = sent or request.model
            if runtime.averages.record_usage(request.agent, model, self._prompt_tokens, usage):
                tokens = usage.input_tokens + usage.output_tokens
                weight = estimate_weight(model, tokens, runtime.settings.weights)
            paid = pay(self.ticket, ActualCost(usage, weight, meter.model, meter.service_tier))
            return Spending(usage, weight, meter.model, meter.response_id, meter.finish_reasons, *paid, sent)
        except Exception:
            process.log_fault("settling a call")
            return None

    @property
    def is_unfinished(self) -> bool:
        """Whether something is still held or unpaid, where it is dropped."""
        # One that was taken back by `max_hold` has ended, and is still to be paid.
        unpaid = self.sent and self.reservation is not None and self.reservation.is_open
        return not self.ticket.state.is_ended or unpaid
