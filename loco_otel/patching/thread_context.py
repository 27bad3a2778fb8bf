"""What a program hands to a `ThreadPoolExecutor` runs as its caller's: under the same name, and the same slot.

`asyncio.to_thread` and tasks inherit their caller's context, these threads do not (`loop.run_in_executor` uses them
too). Then a holder that waits for one of them would wait for a call that waits for its slot. Only what is ours is
carried; OpenTelemetry's own context is the business of its instrumentation of threads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from loco_otel._runtime import identity
from loco_otel._waiting import ownership
from loco_otel.patching import repatching
from loco_otel.patching.patch_set import PatchSet
from loco_otel.patching.target import Target

_patch_set = PatchSet()
_users: set[object] = set()


def enable_propagation(user: object) -> None:
    """Carry what is ours into threads until all who asked for it have said `leave`."""
    _users.add(user)
    _patch_set.apply_patches(
        (Target("concurrent.futures.thread", "ThreadPoolExecutor", "submit", _submit_with_context),)
    )
    repatching.register_reapply(_patch_set.reapply_patches)


def disable_propagation(user: object) -> None:
    """Take back a `follow`; harmless without one."""
    _users.discard(user)
    if not _users:
        repatching.unregister_reapply(_patch_set.reapply_patches)
        _patch_set.remove_patches()


def _submit_with_context(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said, held = identity.explicit_identities.get(), ownership.claims_var.get()
    if not args or not (said or held != ownership.EMPTY_CONTEXT):
        return wrapped(*args, **kwargs)
    function, *rest = args
    return wrapped(partial(_run_with_context, said, held, function), *rest, **kwargs)


def _run_with_context(said: Any, held: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    saying, holding = identity.explicit_identities.set(said), ownership.claims_var.set(held)
    try:
        return function(*args, **kwargs)
    finally:
        ownership.claims_var.reset(holding)
        identity.explicit_identities.reset(saying)
