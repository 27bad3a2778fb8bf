"""A call that is weighed, told of and paid for: what a scheduled call has beyond its slot."""

import json
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context

from loco_otel._budgets.reservation import Bill, Paid
from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.nested import Inside
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.process import Runtime
from loco_otel._telemetry import Subject
from loco_otel._telemetry.current_context import attach, detach
from loco_otel._telemetry.foreign_instrumentors import wraps_theirs
from loco_otel._waiting import ownership
from loco_otel.events import Spending
from loco_otel.patching.adapter import Adapter, Description, Meter
from loco_otel.patching.call import Call
from loco_otel.patching.estimates import purchase
from loco_otel.patching.request_size import estimate_tokens, estimate_weight
from loco_otel.patching.throttling import is_deserted

_UNDER_WAY = (State.GRANTED, State.RELEASED)
_QUICKLY_READ = 32_768
"""Bytes of a raw answer that are parsed for their usage alone, where nobody listens."""


class WeighedCall(Call):
    """Dropped without an end, it is settled with what was seen."""

    __slots__ = ("_prompt_tokens", "_spending", "_token", "limited", "meter", "purchase", "trace")

    meter: Meter

    def __init__(
        self,
        runtime: Runtime,
        adapter: Adapter,
        description: Description,
        caller: Identity,
        *,
        resources: tuple[str, ...],
        wrapped: Any,
        inside: bool,
    ) -> None:
        provider, operation, model, body, url, told_below = description
        agent = caller.agent
        self.meter = Meter()
        self._spending: Spending | None = None
        self.limited = runtime.budgets.limited
        """Whether budgets have to let it in."""
        self._prompt_tokens = estimate_tokens(body)
        expected = runtime.averages.expected(agent, model, self._prompt_tokens)
        tokens = expected.input_tokens + expected.output_tokens
        self.purchase = purchase(runtime, caller, description, resources, self._prompt_tokens)
        """Pays for it, where anybody wants to know what it takes."""
        self.trace = runtime.trace()
        if self.trace is not None:
            subject = Subject(operation, provider, model, url, body)
            self.trace.concern(agent, subject, told_below=told_below or wraps_theirs(wrapped))
        super().__init__(
            runtime,
            adapter,
            description,
            caller,
            resources=resources,
            engine=Inside(runtime.engine) if inside else runtime.engine,
            weight=estimate_weight(model, tokens, runtime.settings.weights),
            tokens=tokens,
            admission=self.limited,
            settles=not inside,  # its settlement follows the grant: under a slot of the program's own there is none
            context=self.trace,
        )
        if self.limited and self.purchase is not None:
            self.ticket.admission = self.purchase.admit

    def submit(self) -> None:
        """Ask for the slot; a call that has to wait for it is turned away if its budgets will never let it in."""
        super().submit()
        if self.limited and self.ticket.state is State.WAITING and self.purchase is not None:
            self.purchase.wait(self.ticket)

    def wait_no_more(self) -> None:
        """Note that it was let in or turned away."""
        if self.limited:
            self._runtime.budgets.wait_no_more(self.ticket)

    def options(self, options: Any) -> Any:
        """Return what is to be sent: with what we ask for beyond the program, and the model that its budgets leave."""
        options = super().options(options)
        purchase = self.purchase
        if purchase is not None and purchase.model != self.ticket.request.model:
            try:
                options = self.adapter.with_model(options, purchase.model)
            except Exception:
                process.log_fault("sending a call with a cheaper model")
        return options

    def enter(self) -> None:
        """Run what follows under this call's span too."""
        super().enter()
        self._token = None
        trace = self.trace
        if trace is not None:
            ticket = self.ticket
            try:
                model = self._sent_model
                if model is not None:
                    trace.go_with(model)
                trace.waited_for(ticket.granted_at - ticket.waiting_since)
                context = trace.begin(ticket.request.agent, self.engine.now())
            except Exception:
                process.log_fault("beginning an inference span")
                return
            if context is not trace.caller:
                self._token = attach(context)

    def leave(self) -> None:
        """Undo `enter`; elsewhere, as where the garbage collector closes a coroutine, there is nothing to undo."""
        if ownership.leave(self._scope) and self._token is not None:
            detach(self._token)

    @property
    def inference_context(self) -> Context | None:  # type: ignore[override] # it is only ever asked for
        """The context to be current while a chunk is read, where the inference span is ours."""
        return None if self.trace is None or self.trace.inference is None else self.trace.inference.context

    def note_first_chunk(self, at: float) -> None:
        """Note when a stream's first chunk came, by the scheduler's clock; harmless for those that follow."""
        trace = self.trace
        if trace is not None and trace.inference is not None and trace.inference.first_chunk_at is None:
            trace.inference.first_chunk_at = at

    @property
    def reader(self) -> Callable[[Any, Meter], None]:  # type: ignore[override] # it is only ever asked for
        """What is to read each chunk of its stream."""
        return self.adapter.read_chunk if self._is_read_wholly else self.adapter.read_usage

    @property
    def _is_read_wholly(self) -> bool:
        """Whether an answer that does not tell its tokens is to be measured."""
        return self.engine.observed or self._runtime.budgets.counting

    @property
    def _sent_model(self) -> str | None:
        """The model that it is sent with, where that is not the one that the program named."""
        purchase, asked = self.purchase, self.ticket.request.model
        return purchase.model if purchase is not None and purchase.model != asked else None

    @property
    def _is_under_way(self) -> bool:
        """Whether an attempt of it is with the provider, or was when its slot was taken back."""
        return self.sent and self.ticket.state in _UNDER_WAY

    def finish(self, error: BaseException | None = None) -> None:
        """Settle with what the meter has, and give the slot back. Harmless when repeated."""
        ticket = self.ticket
        if ticket.state.ended:
            # Taken back for want of a sign of life: what it took is spent all the same.
            self._pay(error)
            return
        spending = self._pay(error)
        if error is None:
            self.engine.release(ticket, spending)
            return
        if self.trace is not None:
            self.trace.fail(error)
        try:
            self.push_back(error)
        finally:
            self.engine.cancel(ticket, spending)

    def abandon(self) -> None:
        """Do as `finish`, a little later and in another thread: for where the garbage collector may be the caller."""
        ticket, purchase = self.ticket, self.purchase
        spending = None
        if purchase is not None and purchase.open:
            if self._is_under_way:
                spending = self._spending = self._settled(purchase.drop)
            else:
                purchase.drop(ticket, None)
        if not ticket.state.ended:
            self.engine.abandon(ticket, spending)

    def fail(self, error: BaseException) -> None:
        """Give the slot back after a call that brought no body.

        Nothing was spent, unless nobody stayed to hear the answer: providers go on and bill it. Its prompt is charged,
        as an estimate.
        """
        engine, ticket = self.engine, self.ticket
        if self.trace is not None and not ticket.state.ended:
            # A rejection is told as what it is, whether the caller or the listeners hear of it first.
            self.trace.fail(error)
        if isinstance(error, GeneratorExit):
            # The task was dropped: this may be the garbage collector, in the midst of anything.
            self.abandon()
            return
        spending = None
        try:
            self.push_back(error)
            # An answer that was whole, and that the SDK refused to parse: it was paid for.
            answer = getattr(error, "completion", None)
            if answer is not None:
                self.read_answer(answer)
                spending = self._pay(error)
            elif self._is_under_way and is_deserted(error):
                spending = self._pay(error)
            elif self.purchase is not None:
                self.purchase.give_back(ticket)
        finally:
            engine.cancel(ticket, spending)

    def read_answer(self, answer: Any) -> None:
        """Note what a whole answer says."""
        try:
            self.adapter.read_answer(answer, self.meter)
        except Exception:
            process.log_fault("reading an answer")

    def read_raw(self, response: Any) -> None:
        """Note what a body that nobody parsed lets know: its JSON where it is in memory, its length where not."""
        if self.meter.output_tokens is None and not self.meter.characters:
            content = getattr(response, "_content", None)
            if not self._is_read_wholly and (content is None or len(content) > _QUICKLY_READ):
                return
            if content is None:
                size = getattr(response, "num_bytes_downloaded", 0)
            else:
                size = len(content)
                try:
                    self.read_answer(json.loads(content))
                except ValueError:
                    pass
                else:
                    return
            if "event-stream" in response.headers.get("content-type", ""):
                self.meter.raw_bytes = size
            else:
                self.meter.characters = size

    def fault(self, what: str) -> None:
        """Log a fault of ours, and let the user's call go on without a slot."""
        super().fault(what)
        self._end_call_span()

    def give_up(self) -> None:
        """Give the slot back after a fault of ours, of which this must not make another."""
        try:
            if self.purchase is not None:
                self.purchase.give_back(self.ticket)
        except Exception:
            process.log_fault("giving a reservation back")
        super().give_up()

    def pass_by(self, what: str) -> None:
        """Count that the call goes on without a slot, because of where it runs."""
        super().pass_by(what)
        self._end_call_span()

    def _end_call_span(self) -> None:
        if self.trace is not None and self.trace.call is not None:
            self.trace.call.end()

    def _pay(self, error: BaseException | None) -> Spending | None:
        """Pay for what it took, once, and return that.

        A call that the provider answered with nothing but an error took nothing.
        """
        purchase = self.purchase
        if purchase is None or not purchase.open:
            return self._spending
        if error is not None and not self.meter.has_seen_anything and getattr(error, "body", None) is not None:
            purchase.give_back(self.ticket)
            return None
        self._spending = self._settled(purchase.settle)
        return self._spending

    def _settled(self, pay: Callable[[Ticket, Bill], Paid]) -> Spending | None:
        """Learn from what it took, and pay for it; None for a fault of ours, which must not keep the slot.

        Real tokens replace the weight that it was granted with; where they are estimates, that one stands.
        """
        runtime, meter, request = self._runtime, self.meter, self.ticket.request
        try:
            usage = meter.usage(self._prompt_tokens)
            weight, sent = request.weight, self._sent_model
            model = sent or request.model
            if runtime.averages.learn(request.agent, model, self._prompt_tokens, usage):
                tokens = usage.input_tokens + usage.output_tokens
                weight = estimate_weight(model, tokens, runtime.settings.weights)
            paid = pay(self.ticket, Bill(usage, weight, meter.model, meter.service_tier))
            return Spending(usage, weight, meter.model, meter.response_id, meter.finish_reasons, *paid, sent)
        except Exception:
            process.log_fault("settling a call")
            return None

    @property
    def is_to_be_ended(self) -> bool:
        """Whether something is still held or unpaid, where it is dropped."""
        # One that was taken back by `max_hold` has ended, and is still to be paid.
        unpaid = self.sent and self.purchase is not None and self.purchase.open
        return not self.ticket.state.ended or unpaid
