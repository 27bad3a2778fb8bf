"""The control endpoint: `POST /control/OPERATION` with a JSON body, answered with JSON."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from .answers import Settings
from .http1 import Request, Response
from .script import Match, Rule

if TYPE_CHECKING:
    from .server import Server

PREFIX = "/control/"

_COUNTS = ("received", "finished", "in_progress", "held")


async def handle_control(server: "Server", request: Request, response: Response) -> None:
    """Answer a control request: 200 with the result, 400 for a wrong one, 504 for a wait that timed out."""
    operation = _OPERATIONS.get(request.path.removeprefix(PREFIX))
    result: dict[str, Any]
    if operation is None:
        status, result = 404, {"error": "no such operation"}
    else:
        try:
            status, result = 200, await operation(server, request.json())
        except TimeoutError:
            status, result = 504, server.journal.describe()
        except (TypeError, ValueError) as error:
            status, result = 400, {"error": str(error)}
    await response.send(status, {"content-type": "application/json"}, json.dumps(result).encode())


async def _state(server: "Server", _: Mapping[str, Any]) -> dict[str, Any]:
    return server.journal.describe()


async def _requests(server: "Server", _: Mapping[str, Any]) -> dict[str, Any]:
    return {"requests": server.journal.list_entries()}


async def _reset(server: "Server", _: Mapping[str, Any]) -> dict[str, Any]:
    server.reset()
    return server.journal.describe()


async def _configure(server: "Server", body: Mapping[str, Any]) -> dict[str, Any]:
    server.settings = Settings(**{**vars(server.settings), **body})
    return dict(vars(server.settings))


async def _hold(server: "Server", body: Mapping[str, Any]) -> dict[str, Any]:
    server.script.rules.append(Rule.from_json("hold", body))
    return server.journal.describe()


async def _refuse(server: "Server", body: Mapping[str, Any]) -> dict[str, Any]:
    server.script.rules.append(Rule.from_json("refuse", body))
    return server.journal.describe()


async def _break(server: "Server", body: Mapping[str, Any]) -> dict[str, Any]:
    server.script.rules.append(Rule.from_json("break", body))
    return server.journal.describe()


async def _release(server: "Server", body: Mapping[str, Any]) -> dict[str, Any]:
    count, match = body.get("count"), Match(**body.get("match", {}))
    if count is None:
        server.script.rules = [rule for rule in server.script.rules if rule.action != "hold"]
        server.gate.open()
    else:
        server.gate.release(count, match)
    server.journal.notify()
    return server.journal.describe()


async def _wait(server: "Server", body: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {name: body[name] for name in _COUNTS if body.get(name) is not None}
    exact = body.get("exact", False)

    def is_reached(counts: dict[str, int]) -> bool:
        return all(counts[name] == value if exact else counts[name] >= value for name, value in wanted.items())

    if not await server.journal.wait_until(is_reached, body.get("timeout", 10.0)):
        raise TimeoutError
    return server.journal.describe()


_OPERATIONS: Mapping[str, Callable[["Server", Mapping[str, Any]], Awaitable[dict[str, Any]]]] = {
    "state": _state,
    "requests": _requests,
    "reset": _reset,
    "configure": _configure,
    "hold": _hold,
    "refuse": _refuse,
    "break": _break,
    "release": _release,
    "wait": _wait,
}
