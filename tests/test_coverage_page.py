"""docs/coverage.md is made from the tables that the tests use, and leaves none of them out."""

from importlib.metadata import entry_points
from pathlib import Path

from compatible_hosts import HOSTS
from conformance import ROWS
from coverage_page import FACTS, list_instrumentors, main, render_page

from loco_otel.patching.dialects.provider_hosts import PROVIDERS

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"


def test_page_is_current() -> None:
    assert main([str(PAGE), "--check"]) == 0


def test_page_has_all_sdks_hosts_and_gaps() -> None:
    page = render_page()
    for instrumentor in list_instrumentors().values():
        assert f"\n| `{instrumentor.sdk}` |" in page
        assert all(name in page for name in instrumentor.not_covered)
    for name in (*PROVIDERS.values(), *(host.provider for host in HOSTS)):
        assert f"\n| `{name}` |" in page


def test_each_conformance_row_is_of_one_sdk() -> None:
    named = [name for facts in FACTS.values() for name in facts.rows]
    assert sorted(named) == sorted(row.name for row in ROWS)


def test_each_framework_with_a_reader_is_listed() -> None:
    table = render_page().partition("## Agent frameworks")[2].lower()
    packages = {entry.name.partition(".")[0] for entry in entry_points(group="loco_otel_agent_identity")}
    known = {"langchain_core": "langchain", "agents": "openai-agents", "google": "google-adk"}
    for package in packages:
        assert known.get(package, package.replace("_", "-")) in table
