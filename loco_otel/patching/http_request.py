"""The JSON body of a request of httpx or httpx2."""

import json
from collections.abc import Mapping
from typing import Any

_OBJECT = b"{"


def read_json_object(request: Any) -> dict[str, Any] | None:
    """Return the JSON of a request's body; None for a body of another kind, or one that is not in memory."""
    content = getattr(request, "_content", None)
    if content is None or content.lstrip()[:1] != _OBJECT:
        return None
    try:
        body: dict[str, Any] = json.loads(content)
    except ValueError:
        return None
    return body


def replace_json_values(request: Any, values: Mapping[str, object]) -> Any:
    """Return a request with other values in its JSON; the one given is left as it is."""
    content = json.dumps({**json.loads(request.content), **values}).encode()
    headers = {name: value for name, value in request.headers.items() if name != "content-length"}
    return type(request)(request.method, request.url, headers=headers, content=content, extensions=request.extensions)
