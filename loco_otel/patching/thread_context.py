"""Propagates the caller's identity, run and claims to the functions that a `ThreadPoolExecutor` runs.

`asyncio.to_thread` and tasks inherit their caller's context; the threads of an executor, which `loop.run_in_executor`
uses too, do not. Without it, a holder that waits for such a function deadlocks if that calls a model: the call waits
for the holder's slot. The slot itself is not propagated: a pool may run many functions at a time, and longer than the
slot is held. OpenTelemetry's own context is left to its instrumentation of threads.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

from loco_otel._runtime.agent_readers import pushed_identities
from loco_otel._runtime.identity import explicit_identities, find_trace_run, inherited_run
from loco_otel._telemetry.current_context import get_current
from loco_otel._waiting import ownership
from loco_otel.patching import repatching
from loco_otel.patching.patch_set import PatchSet
from loco_otel.patching.target import Target

_VARIABLES: tuple[ContextVar[Any], ...] = (
    explicit_identities, pushed_identities, inherited_run, ownership.claims_var,
)  # fmt: skip

_patch_set = PatchSet()
_users: set[object] = set()


def enable_propagation(user: object) -> None:
    """Propagate to threads until each user has called `disable_propagation`. Idempotent."""
    _users.add(user)
    _patch_set.apply_patches(
        (Target("concurrent.futures.thread", "ThreadPoolExecutor", "submit", _submit_with_context),)
    )
    repatching.register_reapply(_patch_set.reapply_patches)


def disable_propagation(user: object) -> None:
    """Undo `enable_propagation`. No-op without one."""
    _users.discard(user)
    if not _users:
        repatching.unregister_reapply(_patch_set.reapply_patches)
        _patch_set.remove_patches()


def _submit_with_context(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not args:
        return wrapped(*args, **kwargs)
    function, *rest = args
    run = find_trace_run(get_current())
    carried = explicit_identities.get(), pushed_identities.get(), run, ownership.list_carried_claims()
    return wrapped(partial(_run_with_context, carried, function), *rest, **kwargs)


def _run_with_context(carried: tuple[Any, ...], function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    tokens = [variable.set(value) for variable, value in zip(_VARIABLES, carried, strict=True)]
    try:
        return function(*args, **kwargs)
    finally:
        # Also what the function has left there, as a claim on a slot that it entered: the thread may live for long.
        for variable, token in zip(reversed(_VARIABLES), reversed(tokens), strict=True):
            variable.reset(token)
