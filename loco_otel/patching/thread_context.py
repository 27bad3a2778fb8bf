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
from loco_otel.patching.patch_set import Placement
from loco_otel.patching.target import Target

_placement = Placement()
_users: set[object] = set()


def follow(user: object) -> None:
    """Carry what is ours into threads until all who asked for it have said `leave`."""
    _users.add(user)
    _placement.put((Target("concurrent.futures.thread", "ThreadPoolExecutor", "submit", _submit),))
    repatching.look_after(_placement.heal)


def leave(user: object) -> None:
    """Take back a `follow`; harmless without one."""
    _users.discard(user)
    if not _users:
        repatching.leave_alone(_placement.heal)
        _placement.remove()


def _submit(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said, held = identity.explicit.get(), ownership.current.get()
    if not args or not (said or held != ownership.NOTHING):
        return wrapped(*args, **kwargs)
    function, *rest = args
    return wrapped(partial(_run, said, held, function), *rest, **kwargs)


def _run(said: Any, held: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    saying, holding = identity.explicit.set(said), ownership.current.set(held)
    try:
        return function(*args, **kwargs)
    finally:
        ownership.current.reset(holding)
        identity.explicit.reset(saying)
