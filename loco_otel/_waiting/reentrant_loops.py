"""Event loops that run inside a task of themselves, as with `nest_asyncio`.

A task that runs its own loop again stays on the stack of its thread, and so do all that did so before: none of them
goes on before the innermost loop returns. A waiter in that loop blocks the claims of all of them.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextvars import Context


def list_suspended_contexts() -> list[Context]:
    """Return the contexts of the tasks that run the current loop inside themselves; usually there are none."""
    loop = asyncio._get_running_loop()
    if loop is None or not _is_nested():
        return []
    current = asyncio.current_task()
    return list(_iter_contexts(task for task in asyncio.all_tasks(loop) if task is not current))


def _is_nested() -> bool:
    loops = 0
    frame = sys._getframe(1).f_back
    while frame is not None:
        loops += frame.f_code.co_name == "_run_once"
        frame = frame.f_back
    return loops > 1


def _iter_contexts(tasks: Iterator[asyncio.Task[object]]) -> Iterator[Context]:
    for task in tasks:
        # The code of a task runs, so it is on the stack.
        if getattr(task.get_coro(), "cr_running", False):
            # Public from Python 3.12 on; before it, nested loops have tasks that are written in Python.
            context = task.get_context() if hasattr(task, "get_context") else getattr(task, "_context", None)
            if context is not None:
                yield context
