"""What a program hands to a `ThreadPoolExecutor` runs as its caller's: under the same name, and the same slot.

`asyncio.to_thread` and tasks inherit their caller's context, these threads do not (`loop.run_in_executor` uses them
too). Then a holder that waits for one of them would wait for a call that waits for its slot. Only what is ours is
carried; OpenTelemetry's own context is the business of its instrumentation of threads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from loco_otel import _identity
from loco_otel._waiting import lineage
from loco_otel.patching import watch
from loco_otel.patching.placement import Placement
from loco_otel.patching.target import Target

_placement = Placement()
_users: set[object] = set()


def follow(user: object) -> None:
    """Carry what is ours into threads until all who asked for it have said `leave`."""
    _users.add(user)
    _placement.put((Target("concurrent.futures.thread", "ThreadPoolExecutor", "submit", _submit),))
    watch.look_after(_placement.heal)


def leave(user: object) -> None:
    """Take back a `follow`; harmless without one."""
    _users.discard(user)
    if not _users:
        watch.leave_alone(_placement.heal)
        _placement.remove()


def _submit(wrapped: Callable[..., Any], _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    said, held = _identity.explicit.get(), lineage.current.get()
    if not args or not (said or held != lineage.NOTHING):
        return wrapped(*args, **kwargs)
    function, *rest = args
    return wrapped(partial(_run, said, held, function), *rest, **kwargs)


def _run(said: Any, held: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    saying, holding = _identity.explicit.set(said), lineage.current.set(held)
    try:
        return function(*args, **kwargs)
    finally:
        lineage.current.reset(holding)
        _identity.explicit.reset(saying)
