"""The program `claude` in tests: speaks the protocol of the Claude Agent SDK, and calls models at the test server.

A prompt is the JSON of a plan: `requests` to a model, one after the other; `hook`, whether the first hook of the host
runs before them; `continues`, whether another turn follows that nobody asked for; `dies`, whether it ends without a
result. Any other prompt is one request. Charges and tokens by model add up over the turns, as those of the original do.
"""

import json
import os
import sys
import urllib.error
import urllib.request

_USD = 0.01
"""For each request."""
_totals = {}


def _send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _receive():
    line = sys.stdin.readline()
    return json.loads(line) if line else None


def _read_option(name, default):
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def _ask_model(prompt):
    body = {"model": _MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": prompt}]}
    url = os.environ["ANTHROPIC_BASE_URL"] + "/v1/messages"
    headers = {"content-type": "application/json", "x-trace": os.environ.get("TRACEPARENT", "")}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def _call_hook():
    identifier = next(iter(_hooks.values()))[0]["hookCallbackIds"][0]
    request = {"subtype": "hook_callback", "callback_id": identifier, "input": {}, "tool_use_id": None}
    _send({"type": "control_request", "request_id": "hook", "request": request})
    while (_receive() or {"type": "control_response"})["type"] != "control_response":
        pass


def _add(usage):
    fields = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    names = ("inputTokens", "outputTokens", "cacheReadInputTokens", "cacheCreationInputTokens")
    known = _totals.setdefault(_MODEL, dict.fromkeys(names, 0) | {"webSearchRequests": 0, "costUSD": 0.0})
    for field, name in zip(fields, names, strict=True):
        known[name] += usage.get(field) or 0
    known["costUSD"] += _USD


def _run_turn(prompt):
    plan = {}
    if prompt.startswith("{"):
        plan = json.loads(prompt)
    if plan.get("hook"):
        _call_hook()
    status = None
    for _ in range(plan.get("requests", 1)):
        try:
            answer = _ask_model(prompt)
        except urllib.error.HTTPError as error:
            status = error.code
            break
        _add(answer["usage"])
        message = {name: answer[name] for name in ("id", "model", "content", "usage")}
        _send({"type": "assistant", "message": {"role": "assistant", **message}, "session_id": "s", "uuid": "u"})
    if plan.get("dies"):
        sys.exit(3)
    result = {
        "type": "result",
        "subtype": "success",
        "duration_ms": 1,
        "duration_api_ms": 1,
        "is_error": status is not None,
        "num_turns": 1,
        "session_id": "s",
        "stop_reason": "end_turn",
        "api_error_status": status,
        "total_cost_usd": sum(each["costUSD"] for each in _totals.values()),
        "usage": {},
        "modelUsage": _totals,
    }
    _send(result)
    if plan.get("continues"):
        _run_turn("by itself")


_MODEL = _read_option("--model", "claude-sonnet-4-5")
_hooks = {}

if __name__ == "__main__":
    while (received := _receive()) is not None:
        if received["type"] == "control_request":
            _hooks = received["request"].get("hooks") or _hooks
            answer = {"subtype": "success", "request_id": received["request_id"], "response": {"commands": []}}
            _send({"type": "control_response", "response": answer})
        elif received["type"] == "user":
            _run_turn(received["message"]["content"])
