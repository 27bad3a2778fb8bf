"""Calls that begin and end in different callbacks of a framework, by a key that both callbacks receive."""

from collections.abc import Hashable
from typing import Any, NamedTuple
from weakref import ReferenceType, ref

from loco_otel._waiting import ownership
from loco_otel.compat.async_scheduler import AsyncLOCOScheduler
from loco_otel.compat.lease import Lease
from loco_otel.compat.task import Task


class OpenCall(NamedTuple):
    """A call under way."""

    task: Task
    lease: Lease
    owner: ReferenceType[Any] | None
    """Releases the slot when what it refers to is destroyed; None waits for the end of the call."""


class OpenCalls:
    """The calls under way of one adapter. Several may have the same key; the newest ends first. Thread-safe.

    Args:
        scheduler: the scheduler of the slots.

    """

    def __init__(self, scheduler: AsyncLOCOScheduler) -> None:
        self.scheduler = scheduler
        self._calls: dict[Hashable, list[OpenCall]] = {}

    async def begin_call(self, key: Hashable, agent_id: str, task: Task, *, owner: object = None) -> None:
        """Acquire a slot for a call; see `begin_call_blocking`."""
        lease = self.scheduler.hold(agent_id, task)
        await lease.__aenter__()
        self._add_call(key, task, lease, owner)

    def begin_call_blocking(self, key: Hashable, agent_id: str, task: Task, *, owner: object = None) -> None:
        """Acquire a slot for a call, and block the thread until then.

        Args:
            key: identifies the call. It must not refer to `owner`.
            agent_id: the calling agent; registered if unknown.
            task: the call.
            owner: an object of the framework that lives as long as the call. Its end releases the slot of a call whose
                end is not reported, as of one that was cancelled.

        Raises:
            AcquireRejectedError: the request was rejected.

        """
        lease = self.scheduler.hold(agent_id, task)
        lease.enter_blocking()
        self._add_call(key, task, lease, owner)

    def leave_scope(self, key: Hashable) -> None:
        """Run what follows in this context outside the slot of a call, which keeps it. No-op for an unknown key."""
        calls = self._calls.get(key)
        if calls:
            lease = calls[-1].lease
            lease.leave_scope()
            if lease.ticket is not None:
                ownership.add_claim(lease.ticket)  # a call made here must not wait for this slot

    def end_call(self, key: Hashable, *, error: BaseException | None = None, tokens: int = 0) -> None:
        """Release the slot of a call. No-op if no call has this key, as one that ended already.

        Args:
            key: identifies the call.
            error: what it failed with; a failed call costs nothing.
            tokens: of prompt and answer, if the framework reports them.

        """
        call = self._take_call(key)
        if call is None:
            return
        if tokens:
            self.scheduler.metrics.record_actual_tokens(call.lease.agent.agent_id, call.task, tokens)
        call.lease.end_now(error)

    def find_newest(self) -> OpenCall | None:
        """Return the call that began last; None if none is under way."""
        return next((calls[-1] for calls in reversed(tuple(self._calls.values())) if calls), None)

    def _add_call(self, key: Hashable, task: Task, lease: Lease, owner: object) -> None:
        lease.outlive_context()
        watch = None
        if owner is not None:
            try:
                # Run by the garbage collector: it only drops the lease, whose finalizer releases the slot.
                watch = ref(owner, lambda _: self._forget_lease(key, lease))
            except TypeError:
                watch = None  # an object without weak references: only the end of the call releases the slot
        self._calls.setdefault(key, []).append(OpenCall(task, lease, watch))

    def _take_call(self, key: Hashable) -> OpenCall | None:
        calls = self._calls.get(key)
        if not calls:
            return None
        call = calls.pop()
        if not calls:
            self._calls.pop(key, None)
        return call

    def _forget_lease(self, key: Hashable, lease: Lease) -> None:
        calls = self._calls.get(key, [])
        calls[:] = [call for call in calls if call.lease is not lease]
        if not calls:
            self._calls.pop(key, None)
