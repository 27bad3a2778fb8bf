"""The accounting of one call: its estimated weight, the usage of its answer, its reservation and its settlement."""

import json
from collections.abc import Callable
from typing import Any

from loco_otel._budgets.reservation import ActualCost, Settlement
from loco_otel._core.ticket import State, Ticket
from loco_otel._runtime import faults
from loco_otel._runtime.agent_readers import replace_surrogates
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.runtime import Runtime
from loco_otel.events import Spending
from loco_otel.patching.adapter import Adapter, CallDescription, UsageMeter
from loco_otel.patching.dialects.model_tiers import estimate_weight
from loco_otel.patching.estimates import create_reservation
from loco_otel.patching.refusal import RefusalReader
from loco_otel.patching.request_size import estimate_tokens
from loco_otel.patching.throttling import is_caller_gone

_MAX_PARSED_BYTES = 32_768
"""The longest raw body, in bytes, that is parsed if nothing but the weights depends on its usage."""

_BINARY_TYPES = ("audio/", "image/", "video/", "application/octet-stream")


class CallAccounting:
    """Estimates a call before it is sent, meters its answer, and settles it once.

    It belongs to one `Call`, which binds its ticket before it is submitted.
    """

    __slots__ = (
        *("_adapter", "_prompt_tokens", "_reservation", "_runtime", "_spending", "_ticket"),
        *("meter", "needs_admission", "tokens", "weight"),
    )

    _ticket: Ticket

    def __init__(
        self,
        runtime: Runtime,
        adapter: Adapter,
        description: CallDescription,
        caller: Identity,
        resources: tuple[str, ...],
    ) -> None:
        runtime.budgets.prices.load_snapshot()
        self._runtime = runtime
        self._adapter = adapter
        self.meter = UsageMeter()
        self._spending: Spending | None = None
        self.needs_admission = runtime.budgets.has_budgets
        """Whether budgets decide on its admission."""
        self._prompt_tokens = estimate_tokens(description.body)
        expected = runtime.averages.predict_usage(caller.agent, description.model, self._prompt_tokens)
        self.tokens = expected.input_tokens + expected.output_tokens
        """Expected tokens of prompt and answer."""
        self.weight = estimate_weight(description.model, self.tokens, runtime.settings.weights)
        """Expected weight, in milli-weights."""
        self._reservation = create_reservation(runtime, caller, description, resources, self._prompt_tokens)

    def bind_ticket(self, ticket: Ticket) -> None:
        """Set the ticket that it accounts for."""
        self._ticket = ticket
        if self.needs_admission:
            ticket.admission = self._reservation.admit_call
            if self._runtime.budgets.ledger_client.must_not_wait:
                ticket.run_admission = self._reservation.start_admission

    @property
    def is_open(self) -> bool:
        """Whether its reservation is neither settled nor cancelled."""
        return self._reservation.is_open

    @property
    def chunk_reader(self) -> Callable[[Any, UsageMeter], None]:
        """What reads each chunk of its stream."""
        return self._adapter.read_chunk if self._is_measured else self._adapter.read_usage

    @property
    def sent_model(self) -> str | None:
        """The model that it is sent with; None if that is the one that the program requested."""
        model = self._reservation.model
        return model if model != self._ticket.request.model else None

    @property
    def _is_measured(self) -> bool:
        """Whether an answer without token counts is measured by its length."""
        return self._runtime.engine.observed or self._runtime.budgets.is_counting

    def begin_wait(self) -> None:
        """Track a call that has to wait, so that it is rejected once its budgets can never admit it."""
        if self.needs_admission and self._ticket.state is State.WAITING:
            self._reservation.begin_wait(self._ticket)

    def end_wait(self) -> None:
        """Undo `begin_wait`."""
        if self.needs_admission:
            self._runtime.budgets.untrack_waiter(self._ticket)

    def replace_model(self, options: Any) -> Any:
        """Return the options with the model that its budgets allow."""
        if self._reservation.model != self._ticket.request.model:
            try:
                return self._adapter.with_model(options, self._reservation.model)
            except Exception:
                faults.log_fault("sending a call with a cheaper model")
        return options

    def record_answer(self, answer: Any) -> None:
        """Read the usage of a whole answer."""
        try:
            self._adapter.read_answer(answer, self.meter)
        except Exception:
            faults.log_fault("reading an answer")

    def record_raw_body(self, response: Any) -> None:
        """Read the usage of a body that was not parsed: its JSON if that is in memory, else its length."""
        if self.meter.output_tokens is None and not self.meter.characters and _is_text(response):
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

    def settle(self, error: BaseException | None) -> Spending | None:
        """Settle the metered usage and return its spending. Idempotent.

        A call that the provider answered with an error alone has no usage: its reservation is cancelled.
        """
        if not self._reservation.is_open:
            return self._spending
        if error is not None and not self.meter.has_started and self._is_refusal(error):
            self._reservation.cancel(self._ticket, sent=True)
            return None
        self._spending = self._settle_usage(self._reservation.settle_cost)
        return self._spending

    def _is_refusal(self, error: BaseException) -> bool:
        """Return whether a provider answered with this error."""
        adapter = self._adapter
        if isinstance(adapter, RefusalReader):
            return adapter.read_refusal(error) is not None
        return getattr(error, "body", None) is not None

    def settle_failure(self, error: BaseException, *, sent: bool) -> Spending | None:
        """Settle a call that failed without a body, and return its spending.

        It has spent nothing, unless the caller left while the provider was answering: providers complete such a
        request and bill it. Then its prompt is charged, as an estimate.
        """
        # A whole answer that the SDK refused to parse: it is billed.
        answer = getattr(error, "completion", None)
        if answer is not None:
            self.record_answer(answer)
            return self.settle(error)
        if sent and is_caller_gone(error):
            return self.settle(error)
        self._reservation.cancel(self._ticket, sent=sent)
        return None

    def settle_in_finalizer(self, *, sent: bool) -> Spending | None:
        """Settle a call that was dropped, without a lock, and return its spending; None if it is settled already."""
        if not self._reservation.is_open:
            return None
        if not sent:
            self._reservation.settle_in_finalizer(self._ticket, None)
            return None
        self._spending = self._settle_usage(self._reservation.settle_in_finalizer)
        return self._spending

    def cancel_after_fault(self) -> None:
        """Cancel the reservation after a fault of ours. Never raises."""
        try:
            self._reservation.cancel(self._ticket)
        except Exception:
            faults.log_fault("giving a reservation back")

    def _settle_usage(self, pay: Callable[[Ticket, ActualCost], Settlement]) -> Spending | None:
        """Record the usage for later estimates, and pay for it; None after a fault of ours, which must not raise.

        Reported tokens replace the weight of the grant; estimated tokens leave it unchanged.
        """
        runtime, meter, request = self._runtime, self.meter, self._ticket.request
        try:
            usage = meter.compute_usage(self._prompt_tokens)
            answered, response_id = _read_text(meter.model), _read_text(meter.response_id)
            reasons = tuple([reason for reason in map(_read_text, meter.finish_reasons) if reason])
            weight, sent = request.weight, self.sent_model
            model = sent or request.model
            if runtime.averages.record_usage(request.agent, model, self._prompt_tokens, usage):
                tokens = usage.input_tokens + usage.output_tokens
                weight = estimate_weight(model, tokens, runtime.settings.weights)
            tier = _read_text(meter.service_tier)
            paid = pay(self._ticket, ActualCost(usage, weight, answered, tier))
            usd, remaining, action, unpriced = paid
            return Spending(usage, weight, answered, response_id, reasons, usd, remaining, action, sent, unpriced, tier)
        except Exception:
            faults.log_fault("settling a call")
            return None


def _read_text(value: object) -> str | None:
    """Return a text in valid Unicode, and None for anything else that a server may send."""
    return replace_surrogates(value) if isinstance(value, str) else None


def _is_text(response: Any) -> bool:
    """Return whether the size of a body is that of a text: sound and images have many bytes for few tokens."""
    return not response.headers.get("content-type", "").startswith(_BINARY_TYPES)
