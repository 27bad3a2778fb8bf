"""Distributions that are not what is installed, in a folder that is found first."""

from importlib.metadata import entry_points
from pathlib import Path

HIDE = """
import importlib.metadata as metadata, sys

class Blocker:
    def find_spec(name, path=None, target=None):
        if any(f"{name}.".startswith(f"{hidden}.") for hidden in HIDDEN):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def from_name(name, found=metadata.Distribution.from_name):
    if name in HIDDEN:
        raise metadata.PackageNotFoundError(name)
    return found(name)

sys.meta_path.insert(0, Blocker)
metadata.Distribution.from_name = staticmethod(from_name)
"""


ALL_SDKS = tuple(
    sorted(
        entry.load().sdk for entry in entry_points(group="opentelemetry_instrumentor") if entry.name.startswith("loco_")
    )
)
"""Those with a folder, by import name."""


def list_installed(*hidden: str) -> str:
    """Return all SDKs that the extra `test` installs and no setting enables, without some, as the doctor joins them."""
    return ", ".join(sdk for sdk in ALL_SDKS if sdk not in {"aiobotocore", "httpx", "httpx2", *hidden})


def hide(directory: Path, *sdks: str) -> None:
    """Let SDKs be not installed."""
    (directory / "sitecustomize.py").write_text(f"HIDDEN = {sdks!r}\n{HIDE}")


def put(directory: Path, sdk: str, number: str, base_client: str | None = None) -> None:
    """Let a distribution have this version, and where given another `_base_client`."""
    information = directory / f"{sdk}-{number}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {sdk}\nVersion: {number}\n")
    if base_client is not None:
        (directory / sdk).mkdir()
        (directory / sdk / "__init__.py").touch()
        (directory / sdk / "_base_client.py").write_text(base_client)


def put_instrumentor(directory: Path, name: str, instrument: str, *, sdk: str = "openai", requires: str = "") -> None:
    """Put an instrumentor there, whose `instrument` this is, in a module of its distribution's name."""
    module = name.replace("-", "_")
    put(directory, name, "7.0")
    information = directory / f"{name}-7.0.dist-info"
    (information / "entry_points.txt").write_text(f"[opentelemetry_instrumentor]\n{sdk} = {module}:Instrumentor\n")
    if requires:
        with (information / "METADATA").open("a") as file:
            file.write(f"Provides-Extra: instruments\nRequires-Dist: {requires}; extra == 'instruments'\n")
    body = "".join(f"        {line}\n" for line in instrument.strip().splitlines())
    (directory / f"{module}.py").write_text(f"""
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

class Instrumentor(BaseInstrumentor):
    def instrumentation_dependencies(self):
        return ()

    def _uninstrument(self, **_):
        pass

    def _instrument(self, **_):
{body}
""")
