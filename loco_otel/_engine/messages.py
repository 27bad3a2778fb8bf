"""What the engine logs and raises."""

REENTRANT_ERROR = (
    "the scheduler was called by a finalizer while this thread was inside another of its operations; the call is "
    "refused, as it would wait for itself: do not send requests from __del__ or weakref callbacks"
)
MANY_WAITERS = 1000
MANY_WAITERS_WARNING = (
    f"{MANY_WAITERS:,} calls or more wait for a slot, and no bound is set: set LOCO_MAX_WAITERS to reject calls "
    "above a number with BackpressureError, or raise LOCO_CAPACITY (logged once)"
)
RECOVERY_WARNING = (
    "an operation of the scheduler was interrupted by an exception; its state was rebuilt from the calls that wait and "
    "hold, and no call is affected; loco.recoveries counts this (logged once)"
)
TIMER_ERROR = (
    "the scheduler's timer thread could not be started: timeouts, LOCO_MAX_HOLD and rates per minute take effect only "
    "with the next call; every call tries again, so raise the limit on threads (logged once)"
)
