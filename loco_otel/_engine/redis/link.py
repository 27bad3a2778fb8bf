"""The sockets between one process and the shared engine, and the thread that reads them.

Whoever changes something writes to the socket itself, so an acquire is one round trip. Replies, wakes, heartbeats and
reconnects are the reader's. The engine calls the link under its own lock; the link never calls the engine under its.
"""

import json
import logging
import random
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from math import inf
from typing import Any, Protocol

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis.batches import Batch, BatchLog, Operation, Reply
from loco_otel._engine.redis.connection import Connection
from loco_otel._engine.redis.kick_plan import KickPlan
from loco_otel._engine.redis.modes import ModeSwitch
from loco_otel._engine.redis.reader_thread import ReaderThread
from loco_otel._engine.redis.resp import MISSING, ServerError, encode_json, pack_arguments
from loco_otel._engine.redis.script import SHA, SOURCE
from loco_otel._engine.redis.wakeable_selector import WakeableSelector
from loco_otel.clock import Clock, monotonic
from loco_otel.snapshots import EngineMode

_logger = logging.getLogger("loco_otel")
_decode_json = json.JSONDecoder().decode

_HARMLESS_ERRORS = frozenset(
    {"NOSCRIPT", "READONLY", "OOM", "LOADING", "BUSY", "MASTERDOWN", "MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN"}
    | {"NOREPLICAS", "MISCONF", "NOPERM", "NOAUTH", "WRONGPASS", "UNKILLABLE"}
)
"""Errors before the first effect of a script. After any other one, half of a batch may have been applied."""

_NO_THREAD = "the thread of the shared engine (LOCO_ENGINE) can't be started, calls wait until a later one starts it"

_ACTIVE_SECONDS = 1.0
"""For so long after a batch the reader checks for timeouts by itself; later, the next sender wakes it."""


class LinkHost(Protocol):
    """The engine, as the link calls it, without any lock held."""

    @property
    def has_waiters(self) -> bool:
        """Whether a ticket waits."""

    def list_reported(self) -> Sequence[str]:
        """Return the shared resources of this process that replies have reported; with the link's lock held."""

    def begin_sync(self) -> None:
        """Call `BatchLog.start_sync` with all tickets, and let the engine decide from then on."""

    def apply_reply(self, reply: Reply, operations: Sequence[Operation], seconds: float) -> None:
        """Apply the grants and the state of the resources that the reply to these operations contains."""

    def apply_grants(self, granted: Sequence[Sequence[Any]]) -> None:
        """Apply grants that another process has caused."""

    def change_mode(self, mode: EngineMode, error: Exception | None) -> None:
        """Go on in another mode; the error is why the engine is away."""

    def restore_mode(self) -> None:
        """Go on in the mode of before, as a sync has failed."""

    def record_error(self, kind: str) -> None:
        """Count an error."""


class Link:
    """The connection of one process.

    Args:
        host: the engine.
        log: the protocol's state.
        switch: decides the mode.
        address: where the server is.
        names: the prefix of all keys, and the name of this process.
        timeout: seconds to wait for an answer.
        clock: monotonic, and that of this machine, whatever the clock of the engine: sockets have no other.

    """

    def __init__(
        self,
        host: LinkHost,
        log: BatchLog,
        *,
        switch: ModeSwitch,
        address: EngineAddress,
        names: tuple[str, str],
        timeout: float,
        clock: Clock = monotonic,
    ) -> None:
        self.log = log
        self.lock = threading.RLock()
        self.processes = 1
        """Processes that share the engine, according to the last reply."""
        self._host = host
        self._switch = switch
        self._address = address
        self._base, self._owner = names
        self._command_start = b"*10\r\n" + pack_arguments("EVALSHA", SHA, 1, *names)
        self._lease_time = pack_arguments(round(log.ttl * 1000))
        self._timeout = timeout
        self._clock = clock
        self._connection: Connection | None = None
        self._wakes: Connection | None = None
        self._wake_deadline = inf
        self._moved: tuple[str, int] | None = None
        self._kicks = KickPlan(log.ttl)
        self._sent_at = -inf
        self._sleeps_until = -inf
        self._is_closing = False
        self._has_failed_start = False
        self._thread: ReaderThread | None = None
        self._epoch = ""

    # -- any thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the reader, if it does not run. The next operation tries again if there is no thread or socket left."""
        if self._thread is not None or self._is_closing:
            return
        try:
            with ExitStack() as undo:
                self._selector = WakeableSelector()
                undo.callback(self._selector.close)
                thread = ReaderThread(self._run)
                undo.pop_all()
        except (OSError, RuntimeError) as error:
            self._host.record_error(type(error).__name__)
            if not self._has_failed_start:
                self._has_failed_start = True
                _logger.error("%s: %s", _NO_THREAD, error)  # noqa: TRY400 - the cause is in the text
        else:
            self._thread = thread

    def send_operations(self, operations: Sequence[Operation]) -> None:
        """Write operations to the socket, or leave them to the reader if the window is full."""
        with self.lock:
            if self._is_closing:  # all of it was given up
                return
            for operation in operations:
                self.log.add_operation(operation)
            self._write_batches()

    def request_sync(self) -> None:
        """Send everything again over a new connection, as changes or half a command may be lost."""
        with self.lock:
            self.log.lose_sync()
        self._wake_reader()

    def leave(self) -> None:
        """Give up all leases at once, and end."""
        with self.lock:
            if self._is_closing:
                return
            if self.log.is_synced:
                self.log.add_operation(("leave",))
                self._write_batches()
            self._is_closing = True
        self._wake_reader()

    def join(self, seconds: float) -> None:
        """Wait for the end of the reader."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _write_batches(self) -> None:
        now = self._clock()
        while (batch := self.log.take_batch(now)) is not None:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        self._sent_at = batch.sent_at
        command = self._pack_batch(batch)
        try:
            assert self._connection is not None  # noqa: S101 - invariant: synced, or the reader syncs
            self._connection.send(command)
        except (OSError, ValueError):
            self.log.lose_sync()
            self._wake_reader()
        else:
            if self._sleeps_until > batch.sent_at + self._timeout:
                self._wake_reader()

    def _pack_batch(self, batch: Batch) -> bytes:
        # As `pack_command` would, without its loop; test_packed_commands.py compares them.
        number, generation = b"%d" % batch.number, b"%d" % self.log.generation
        operations = encode_json(batch.operations)
        return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n%b$%d\r\n%b\r\n$1\r\n%d\r\n" % (
            self._command_start,
            len(number),
            number,
            len(generation),
            generation,
            self._lease_time,
            len(operations),
            operations,
            self._host.has_waiters,
        )

    def _wake_reader(self) -> None:
        if self._thread is not None:
            self._selector.wake()

    # -- the reader ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_closing:
            started = self._clock()
            try:
                if not self.log.is_synced:
                    self._synchronize()
                    if self._switch.record_success():
                        self._host.change_mode(self._switch.mode, None)
                self._read_next()
            except Exception as error:
                self._handle_failure(error, started)
        self._close()

    def _close(self) -> None:
        """Wait until the last batch is answered, which gives up the leases, and close.

        What the full window has held back is sent meanwhile.
        """
        if self._connection is not None and self.log.is_synced:
            try:
                give_up = self._clock() + self._timeout
                self._connection.set_blocking(True)
                while self.log.oldest_sent_at < inf and self._clock() < give_up:
                    self._connection.receive()
                    while (reply := self._connection.take_reply()) is not MISSING:
                        with self.lock:
                            self.log.accept_reply(Reply.parse(_decode_json(reply)), self._clock())
                            self._write_batches()
            except Exception:
                _logger.debug("the shared engine did not confirm the end of this process", exc_info=True)
        self._disconnect()
        self._selector.close()

    def _disconnect(self) -> None:
        for connection in (self._connection, self._wakes):
            if connection is not None:
                self._selector.remove_socket(connection.socket)
                connection.close()
        self._connection = self._wakes = None

    def _synchronize(self) -> None:
        with self.lock:
            self._disconnect()
        connection = Connection(self._address, self._timeout, self._moved)
        self._connection = connection
        connection.call("SCRIPT", "LOAD", SOURCE)
        self._wakes = Connection(self._address, self._timeout, self._moved)
        self._host.begin_sync()
        try:
            self._send_sync(connection)
        except Exception:
            self._host.restore_mode()
            raise
        self._request_wakes()
        for opened in (connection, self._wakes):
            opened.set_blocking(False)
            self._selector.add_socket(opened.socket)
        with self.lock:
            self._write_batches()

    def _send_sync(self, connection: Connection) -> None:
        while True:
            with self.lock:
                part = self.log.take_sync_part(self._clock())
                if part is None:
                    return
                self._write(part)
            give_up = part.sent_at + self._timeout
            while (data := connection.take_reply()) is MISSING:
                if self._clock() > give_up:
                    raise TimeoutError("the server did not answer a sync")
                connection.receive()
            reply = Reply.parse(_decode_json(data))
            with self.lock:
                is_valid = self.log.accept_sync_reply(reply, self._clock())
            if not is_valid:
                raise ConnectionError(f"a sync was answered with {reply.status}, or too late")
            self._apply(reply, part)

    def _read_next(self) -> None:
        """Wait for a reply, a wake, or the time of a heartbeat, and handle it."""
        connection, wakes = self._connection, self._wakes
        if connection is None or wakes is None or not self.log.is_synced:
            return
        ready = self._selector.wait(self._plan_wait())
        if connection.socket in ready:
            with self.lock:  # OpenSSL does not allow a read beside a write
                connection.receive()
            while (data := connection.take_reply()) is not MISSING:
                self._handle_reply(Reply.parse(_decode_json(data)))
        if wakes.socket in ready:
            wakes.receive()
            while (data := wakes.take_reply()) is not MISSING:
                self._handle_wake(data)

    def _plan_wait(self) -> float:
        """Send what is due, and return the seconds for which nothing else is.

        Raises:
            TimeoutError: the server has not answered in time.

        """
        with self.lock:
            now, log = self._clock(), self.log
            late_at = min(log.oldest_sent_at + self._timeout, self._wake_deadline)
            if now > late_at:
                raise TimeoutError(f"no answer within {self._timeout:g} s")
            until = min(log.beat_at, self._kicks.at)
            if now >= until:
                self._send_beat(now)
                late_at = min(late_at, log.oldest_sent_at + self._timeout)
                until = min(log.beat_at, self._kicks.at)
            until = min(until, late_at)
            if now - self._sent_at < _ACTIVE_SECONDS:
                until = min(until, now + self._timeout)
            self._sleeps_until = until
        return max(0.0, until - now)

    def _send_beat(self, now: float) -> None:
        self._kicks.clear()
        batch = self.log.take_beat(self._host.list_reported(), now)
        if batch is not None:
            self._write(batch)

    def _handle_reply(self, reply: Reply) -> None:
        with self.lock:
            batch = self.log.accept_reply(reply, self._clock())
            if batch is not None:
                self._write_batches()
        if batch is not None:
            self._apply(reply, batch)

    def _handle_wake(self, data: Any) -> None:
        if data is not None:
            with self.lock:
                is_valid = self.log.accept_wake(self._clock())
            if is_valid:
                self._host.apply_grants(_decode_json(data[1]))
        if self.log.is_synced:
            self._request_wakes()

    def _request_wakes(self) -> None:
        assert self._wakes is not None  # noqa: S101 - invariant: the reader has opened it
        wait = max(1, round(self.log.ttl))
        key = f"{self._base}:{self._epoch}:wake:{self._owner}:{self.log.generation}"
        self._wakes.send_command("BLPOP", key, wait)
        # The server checks the waits of its clients ten times a second.
        self._wake_deadline = self._clock() + wait + max(1.0, self._timeout)

    def _apply(self, reply: Reply, batch: Batch) -> None:
        now = self._clock()
        self._epoch = reply.epoch
        self.processes = max(1, reply.processes)
        self._host.apply_reply(reply, batch.operations, now - batch.sent_at)
        fraction = random.random()  # noqa: S311 - spreads processes, keeps no secret
        self._kicks.update(reply, now, fraction, has_waiters=self._host.has_waiters)

    def _handle_failure(self, error: Exception, started: float) -> None:
        now = self._clock()
        kind = error.kind if isinstance(error, ServerError) else type(error).__name__
        self._host.record_error(kind)
        with self.lock:
            since = min(self.log.oldest_sent_at, now if self.log.is_synced else started)
            must_reset = isinstance(error, ServerError) and kind not in _HARMLESS_ERRORS
            self.log.lose_sync(must_reset=must_reset)
        if kind != "NOSCRIPT":
            self._moved = error.moved_to if isinstance(error, ServerError) else None
        if self._switch.record_failure(since, now):
            self._host.change_mode(self._switch.mode, error)
        self._disconnect()
        delay = self._switch.compute_delay(random.random(), now)  # noqa: S311
        is_immediate = self._is_closing or kind in {"NOSCRIPT", "MOVED"}
        if not is_immediate:
            self._selector.wait(delay)
