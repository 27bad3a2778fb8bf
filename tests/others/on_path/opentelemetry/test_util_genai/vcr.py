"""What tests of OpenTelemetry's GenAI instrumentors use to replay their cassettes."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

_Scrubber = Callable[[dict[str, Any]], dict[str, Any]]


def _match_json_body(one: Any, other: Any) -> None:
    assert json.loads(one.body or "null") == json.loads(other.body or "null")


@pytest.fixture(scope="module", autouse=True)
def json_body_matcher(vcr: Any) -> None:
    vcr.register_matcher("json_body", _match_json_body)


def scrub_response_headers(headers_to_scrub: Iterable[str]) -> _Scrubber:
    return scrub_response_headers_overwrite(dict.fromkeys(headers_to_scrub))


def scrub_response_headers_overwrite(replacements: Mapping[str, str | None]) -> _Scrubber:
    values = {name.lower(): value for name, value in replacements.items()}

    def scrub(response: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in response["headers"].items() if name.lower() not in values}
        response["headers"] = kept | {name: value for name, value in replacements.items() if value is not None}
        return response

    return scrub
