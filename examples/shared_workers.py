"""An application for several workers that share two slots.

    pip install 'loco-otel[redis]' gunicorn
    redis-server &
    cd examples
    LOCO_ENGINE=redis://localhost LOCO_CAPACITY=2 gunicorn --workers 4 --threads 4 --preload shared_workers:app
    for i in 1 2 3 4 5 6 7 8; do curl -s localhost:8000 & done; wait

Each answer has the worker that served the request and the time at which it held its slot. At no time more than two
do, whichever workers they are. Without LOCO_ENGINE there are two in each worker.
"""

import json
import os
import time
from collections.abc import Callable, Iterable

import loco_otel

Environ = dict[str, object]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def app(_: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Hold a slot for as long as a call would take."""
    with loco_otel.slot("web"):
        begin = time.monotonic()
        time.sleep(0.2)
        end = time.monotonic()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"worker": os.getpid(), "begin": begin, "end": end}).encode() + b"\n"]
