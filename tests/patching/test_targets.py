"""Targets that are wrapped after the import of a package, and requests that are sent with more arguments."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from loco_otel.cli.doctor.source import defines_target
from loco_otel.patching import LocoInstrumentor, NamedArguments, Target

_FILES = {
    "__init__.py": "from .main import *\nfrom .other import helper as helper\n",
    "main.py": "def send():\n    return 'main'\n",
    "dispatch.py": "from toypackage import main\ninner = main.send\ndef send():\n    return inner()\n",
    "other.py": "from toypackage import dispatch\ndef helper():\n    return dispatch.send()\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "toypackage"
    folder.mkdir()
    for name, text in _FILES.items():
        folder.joinpath(name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.partition(".")[0] == folder.name]:
        del sys.modules[name]


def make_instrumentor(calls: list[str]) -> LocoInstrumentor:
    def make_wrapper(name: str):
        def wrapper(wrapped, _, args, kwargs):
            calls.append(name)
            return wrapped(*args, **kwargs)

        return wrapper

    class ToyInstrumentor(LocoInstrumentor):
        sdk = "wrapt"  # any distribution that is installed
        requires = "wrapt >= 1"

        def list_targets(self) -> tuple[Target, ...]:
            return tuple(
                Target(module, None, "send", make_wrapper(module), "toypackage")
                for module in ("toypackage", "toypackage.main", "toypackage.dispatch", "toypackage.missing")
            )

    return ToyInstrumentor()


def test_functions_of_package_are_wrapped_once_each(package: str) -> None:
    calls: list[str] = []
    instrumentor = make_instrumentor(calls)
    instrumentor.instrument(skip_dep_check=True)
    try:
        toy = import_module(package)
        assert instrumentor.list_patched() == ("toypackage.send", "toypackage.main.send", "toypackage.dispatch.send")
        toy.send()
        assert calls == ["toypackage"]
        calls.clear()
        toy.helper()
        assert calls == ["toypackage.dispatch"], "the function that it calls was imported before it was wrapped"
    finally:
        instrumentor.uninstrument()
    calls.clear()
    toy.send()
    assert toy.send is toy.main.send
    assert not calls


def test_source_of_package_shows_imported_functions(package: str) -> None:
    def is_defined(module: str, name: str) -> bool:
        return defines_target(Target(module, None, name, lambda *_: None))

    assert is_defined(package, "send")
    assert is_defined(package, "helper")
    assert not is_defined(package, "inner")
    assert not is_defined(f"{package}.other", "send")


def test_replaced_request_may_have_more_arguments() -> None:
    arguments = NamedArguments(("model", "messages"))
    request = {**arguments.read_request(("m",), {"messages": []}), "model": "other", "stream_options": {}}
    replaced = arguments.replace_request(request, ("m",), {"messages": []})
    assert replaced == (("other",), {"messages": [], "stream_options": {}})
