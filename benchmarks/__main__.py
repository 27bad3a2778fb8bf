"""Run all benchmarks, or those named on the command line."""

import platform
import sys
from collections.abc import Callable

from benchmarks import acquire, blame, calls, engine, grants, instructions, library, memory, money, scale, startup

_ALL: dict[str, Callable[[], object]] = {
    "acquire": acquire.run,
    "grants": grants.run,
    "scale": scale.run,
    "blame": blame.run,
    "library": library.run,
    "money": money.run,
    "memory": memory.run,
    "engine": engine.run,
    "startup": startup.run,
    "calls": calls.run,
    "instructions": instructions.run,
}


def main() -> None:
    """Run them."""
    unknown = [name for name in sys.argv[1:] if name not in _ALL]
    if unknown:
        sys.exit(f"no benchmark named {', '.join(unknown)}; there are {', '.join(_ALL)}")
    print(f"Python {platform.python_version()} on {platform.machine()}, CPU time, best of several rounds in turn")
    for name in sys.argv[1:] or _ALL:
        _ALL[name]()


if __name__ == "__main__":
    main()
