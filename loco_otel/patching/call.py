"""One scheduled call, from its description to the end of its body. What both colours of wrapper share."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context

from loco_otel import _runtime
from loco_otel._core.ticket import State, Ticket
from loco_otel._engines.base import Desk
from loco_otel._engines.inside import Inside
from loco_otel._identity import who
from loco_otel._money.purchase import Bill, Paid, Purchase
from loco_otel._runtime import Runtime
from loco_otel._telemetry import CallTrace, Subject
from loco_otel._telemetry.company import wraps_theirs
from loco_otel._telemetry.current import attach, detach
from loco_otel._waiting import lineage
from loco_otel.events import MILLI, Request, Spending
from loco_otel.patching.adapter import Adapter, Asked, Description, Meter
from loco_otel.patching.estimates import purchase
from loco_otel.patching.pushback import is_deserted, read_pushback
from loco_otel.patching.weights import estimate_tokens, estimate_weight

_UNDER_WAY = (State.GRANTED, State.RELEASED)
_QUICKLY_READ = 32_768
"""Bytes of a raw answer that are parsed for their usage alone, where nobody listens."""


class Call:
    """Owns the call's ticket. Dropped without an end, it is settled with what was seen and its slot comes back."""

    __slots__ = (
        *("_prompt_tokens", "_runtime", "_scope", "_spending", "_token"),
        *("adapter", "asked", "engine", "limited", "meter", "purchase", "sent", "ticket", "trace", "weighed"),
    )

    def __init__(
        self, runtime: Runtime, adapter: Adapter, description: Description, wrapped: Any, *, inside: bool
    ) -> None:
        settings = runtime.settings
        provider, operation, model, body, url, told_below = description
        caller = who(runtime.default_agent)
        agent = caller.agent
        self._runtime = runtime
        self.engine: Desk = Inside(runtime.engine) if inside else runtime.engine
        """The engine that its ticket belongs to."""
        self.adapter = adapter
        self.asked: Asked | None = None
        """What is asked of the provider beyond what the program does."""
        self.meter = Meter()
        self._spending: Spending | None = None
        self.sent = False
        """Whether the SDK was let go: from then on it may cost something."""
        self.purchase: Purchase | None = None
        """Pays for it, where anybody wants to know what it takes."""
        self.trace: CallTrace | None = None
        self.weighed = runtime.weighs
        """Whether what it takes matters to anybody."""
        self.limited = runtime.budgets.limited
        """Whether budgets have to let it in."""
        weight, tokens = MILLI, 0
        resources = runtime.router.resources(provider, model, *((None, None) if url is None else (url.host, url.port)))
        if self.weighed:
            self._prompt_tokens = estimate_tokens(body)
            expected = runtime.averages.expected(agent, model, self._prompt_tokens)
            tokens = expected.input_tokens + expected.output_tokens
            weight = estimate_weight(model, tokens, settings.weights)
            self.purchase = purchase(runtime, caller, description, resources, self._prompt_tokens)
            self.trace = runtime.trace()
            if self.trace is not None:
                subject = Subject(operation, provider, model, url, body)
                self.trace.concern(agent, subject, told_below=told_below or wraps_theirs(wrapped))
        request = Request(
            agent,
            weight,
            resources,
            settings.acquire_timeout,
            self.limited,
            caller.tenant,
            operation,
            provider,
            model,
            None,  # labels
            not inside,  # its settlement follows the grant: under a slot of the program's own there is none
            self.trace,
            tokens,
        )
        self.ticket: Ticket = self.engine.ticket(request)
        if self.limited and self.purchase is not None:
            self.ticket.admission = self.purchase.admit
        lineage.live_here(self.ticket)

    def submit(self) -> None:
        """Ask for the slot; a call that has to wait for it is turned away if its budgets will never let it in."""
        ticket = self.ticket
        self.engine.submit(ticket)
        if self.limited and ticket.state is State.WAITING and self.purchase is not None:
            self.purchase.wait(ticket)

    def wait_no_more(self) -> None:
        """Note that it was let in or turned away."""
        if self.limited:
            self._runtime.budgets.wait_no_more(self.ticket)

    def options(self, options: Any) -> Any:
        """Return what is to be sent: with what we ask for beyond the program, and the model that its budgets leave."""
        if self.asked is not None:
            options = self.asked.options
        purchase = self.purchase
        if purchase is not None and purchase.model != self.ticket.request.model:
            try:
                options = self.adapter.with_model(options, purchase.model)
            except Exception:
                _runtime.log_fault("sending a call with a cheaper model")
        return options

    def enter(self) -> None:
        """Run what follows under this call's slot and span: the SDK's own request."""
        self._scope = lineage.cover(self.ticket)
        self._token = None
        self.sent = True
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
                _runtime.log_fault("beginning an inference span")
                return
            if context is not trace.caller:
                self._token = attach(context)

    def leave(self) -> None:
        """Undo `enter`; elsewhere, as where the garbage collector closes a coroutine, there is nothing to undo."""
        if lineage.leave(self._scope) and self._token is not None:
            detach(self._token)

    @property
    def inference_context(self) -> Context | None:
        """The context to be current while a chunk is read, where the inference span is ours."""
        return None if self.trace is None or self.trace.inference is None else self.trace.inference.context

    def stay(self) -> None:
        """Let this context hold the slot while the body is open."""
        lineage.claim(self.ticket)

    def move_here(self) -> None:
        """Note that somebody else reads the body now."""
        claim = lineage.Claim(self.ticket)
        self.engine.move(self.ticket, (threading.get_ident(), claim.place))
        lineage.claim(claim)

    def note_first_chunk(self, at: float) -> None:
        """Note when a stream's first chunk came, by the scheduler's clock; harmless for those that follow."""
        trace = self.trace
        if trace is not None and trace.inference is not None and trace.inference.first_chunk_at is None:
            trace.inference.first_chunk_at = at

    @property
    def reader(self) -> Callable[[Any, Meter], None] | None:
        """What is to read each chunk of its stream; None where nobody wants to know what it took."""
        if not self.weighed:
            return None
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
            self._push_back(error)
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
            self._push_back(error)
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

    def _push_back(self, error: BaseException) -> None:
        """Tell the scheduler where an error means that the provider has too much to do."""
        pushback = read_pushback(
            self.adapter, getattr(error, "response", None), getattr(error, "body", None), error=error
        )
        if pushback is not None:
            self.engine.throttle(self.ticket, *pushback)

    def read_answer(self, answer: Any) -> None:
        """Note what a whole answer says."""
        if not self.weighed:
            return
        try:
            self.adapter.read_answer(answer, self.meter)
        except Exception:
            _runtime.log_fault("reading an answer")

    def read_raw(self, response: Any) -> None:
        """Note what a body that nobody parsed lets know: its JSON where it is in memory, its length where not."""
        if self.weighed and self.meter.output_tokens is None and not self.meter.characters:
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
        self._runtime.fault(what)
        if self.trace is not None and self.trace.call is not None:
            self.trace.call.end()
        self.give_up()

    def give_up(self) -> None:
        """Give the slot back after a fault of ours, of which this must not make another."""
        try:
            if self.purchase is not None:
                self.purchase.give_back(self.ticket)
            self.engine.cancel(self.ticket)
        except Exception:
            _runtime.log_fault("giving a slot back")

    def pass_by(self, what: str) -> None:
        """Count that the call goes on without a slot, because of where it runs."""
        self._runtime.unsupported(what)
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
            _runtime.log_fault("settling a call")
            return None

    def __del__(self) -> None:
        # A finaliser: runs anywhere, so nothing here locks, logs or wakes. Without a ticket it was never made.
        ticket: Ticket | None = getattr(self, "ticket", None)
        if ticket is None or ticket.state is State.NEW:
            return
        # One that was taken back by `max_hold` has ended, and is still to be paid.
        if not ticket.state.ended or (self.sent and self.purchase is not None and self.purchase.open):
            with suppress(Exception):
                self.abandon()


def prepare(adapter: Adapter, client: Any, options: Any, wrapped: Any) -> Call | None:
    """Make the call to be scheduled; None when this request is not for us, and when we fail to tell.

    Under a slot of the program's own it is not scheduled again, but told and paid for.
    """
    covering = lineage.covering()
    if covering is not None and (covering.request.settles or covering.inside):
        return None
    try:
        description = adapter.describe(client, options)
        if description is None:
            return None
        runtime = _runtime.current()
        runtime.look_for_sdk()
        if covering is not None and not runtime.weighs:
            return None
        call = Call(runtime, adapter, description, wrapped, inside=covering is not None)
        if runtime.settings.stream_usage:
            call.asked = adapter.ask_usage(options)
        return call  # noqa: TRY300 - nothing else can fail
    except Exception:
        _runtime.fault("describing a call")
        return None


def let_in_again(ticket: Ticket) -> None:
    """Note the wait that followed a pause."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.waited_for(ticket.granted_at - ticket.waiting_since)


def find_below(ticket: Ticket) -> None:
    """Tell whoever makes the call's inference span below us how long it has waited."""
    trace = ticket.request.context
    if isinstance(trace, CallTrace):
        trace.look_below()
