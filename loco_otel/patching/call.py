"""One scheduled call, from its description to the end of its body. What both colours of wrapper share."""

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context

from loco_otel._core.ticket import State, Ticket
from loco_otel._engine.base import Desk
from loco_otel._runtime import process
from loco_otel._runtime.identity import Identity
from loco_otel._runtime.process import Runtime
from loco_otel._waiting import ownership
from loco_otel.events import MILLI, Request
from loco_otel.patching.adapter import Adapter, Asked, Description, Meter
from loco_otel.patching.throttling import read_pushback


class Call:
    """Owns the call's ticket. Dropped without an end, its slot comes back.

    This is all that a call needs whose spending matters to nobody; what else there is, `WeighedCall` adds.
    """

    __slots__ = ("_runtime", "_scope", "adapter", "asked", "engine", "sent", "ticket")

    reader: Callable[[Any, Meter], None] | None = None
    """What is to read each chunk of its stream; None where nobody wants to know what it took."""
    meter = Meter()
    """Nobody's: without a reader nothing is noted in it."""
    inference_context: Context | None = None
    """The context to be current while a chunk is read, where the inference span is ours."""

    def __init__(
        self,
        runtime: Runtime,
        adapter: Adapter,
        description: Description,
        caller: Identity,
        *,
        resources: tuple[str, ...],
        engine: Desk,
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
        self.asked: Asked | None = None
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
        self.ticket: Ticket = engine.ticket(request)
        ownership.live_here(self.ticket)

    def submit(self) -> None:
        """Ask for the slot."""
        self.engine.submit(self.ticket)

    def wait_no_more(self) -> None:
        """Note that it was let in or turned away."""

    def options(self, options: Any) -> Any:
        """Return what is to be sent: with what we ask for beyond the program."""
        return options if self.asked is None else self.asked.options

    def enter(self) -> None:
        """Run what follows under this call's slot: the SDK's own request."""
        self._scope = ownership.cover(self.ticket)
        self.sent = True

    def leave(self) -> None:
        """Undo `enter`; elsewhere, as where the garbage collector closes a coroutine, there is nothing to undo."""
        ownership.leave(self._scope)

    def stay(self) -> None:
        """Let this context hold the slot while the body is open."""
        ownership.claim(self.ticket)

    def move_here(self) -> None:
        """Note that somebody else reads the body now."""
        claim = ownership.Claim(self.ticket)
        self.engine.move(self.ticket, (threading.get_ident(), claim.place))
        ownership.claim(claim)

    def note_first_chunk(self, at: float) -> None:
        """Note when a stream's first chunk came, by the scheduler's clock; harmless for those that follow."""

    def finish(self, error: BaseException | None = None) -> None:
        """Settle with what is known, and give the slot back. Harmless when repeated."""
        if self.ticket.state.ended:
            return
        if error is None:
            self.engine.release(self.ticket)
        else:
            self.fail(error)

    def abandon(self) -> None:
        """Do as `finish`, a little later and in another thread: for where the garbage collector may be the caller."""
        if not self.ticket.state.ended:
            self.engine.abandon(self.ticket)

    def fail(self, error: BaseException) -> None:
        """Give the slot back after a call that brought no body."""
        if isinstance(error, GeneratorExit):
            # The task was dropped: this may be the garbage collector, in the midst of anything.
            self.abandon()
            return
        try:
            self.push_back(error)
        finally:
            self.engine.cancel(self.ticket)

    def push_back(self, error: BaseException) -> None:
        """Tell the scheduler where an error means that the provider has too much to do."""
        pushback = read_pushback(
            self.adapter, getattr(error, "response", None), getattr(error, "body", None), error=error
        )
        if pushback is not None:
            self.engine.throttle(self.ticket, *pushback)

    def read_answer(self, answer: Any) -> None:
        """Note what a whole answer says."""

    def read_raw(self, response: Any) -> None:
        """Note what a body that nobody parsed lets know: its JSON where it is in memory, its length where not."""

    def fault(self, what: str) -> None:
        """Log a fault of ours, and let the user's call go on without a slot."""
        self._runtime.fault(what)
        self.give_up()

    def give_up(self) -> None:
        """Give the slot back after a fault of ours, of which this must not make another."""
        try:
            self.engine.cancel(self.ticket)
        except Exception:
            process.log_fault("giving a slot back")

    def pass_by(self, what: str) -> None:
        """Count that the call goes on without a slot, because of where it runs."""
        self._runtime.unsupported(what)

    @property
    def is_to_be_ended(self) -> bool:
        """Whether something is still held or unpaid, where it is dropped."""
        return not self.ticket.state.ended

    def __del__(self) -> None:
        # A finaliser: runs anywhere, so nothing here locks, logs or wakes. Without a ticket it was never made.
        ticket: Ticket | None = getattr(self, "ticket", None)
        if ticket is not None and ticket.state is not State.NEW and self.is_to_be_ended:
            with suppress(Exception):
                self.abandon()
