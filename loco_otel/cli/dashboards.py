"""The dashboards and rules that come with the package, for `loco-otel dashboards export` and `push`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import loco_otel

_EXPORTED = ("*.json", "*.libsonnet", "compose.yaml", "alerts/**/*.yml", "provisioning/**/*.y*ml")
"""The files of the folder; it has more in a checkout."""
RUNBOOKS = "http://localhost:3000/public/runbooks"
"""Where alerts expect their runbooks by default: the Grafana of `compose.yaml` serves those that are exported."""


class DashboardError(Exception):
    """Files cannot be written, or Grafana does not accept them."""


def find_folder() -> Path:
    """Return the folder of the dashboards: in the installed package, or in the checkout of an editable install.

    Raises:
        DashboardError: there is none.

    """
    package = Path(loco_otel.__file__).parent
    for folder in (package / "_dashboards", package.parent / "dashboards"):
        if (folder / "loco-overview.json").is_file():
            return folder
    raise DashboardError("this installation has no dashboards: reinstall loco-otel")


def load_dashboards() -> list[dict[str, Any]]:
    """Return the dashboards, as parsed JSON.

    Raises:
        DashboardError: this installation has none.

    """
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(find_folder().glob("loco-*.json"))]


def export_files(target: Path, runbooks: str | None = None) -> Sequence[Path]:
    """Write dashboards, rules, runbooks, provisioning and compose files to a folder; overwrite files of the same name.

    Args:
        target: the folder; it is created.
        runbooks: the URL of a folder with the runbooks, to which alerts then link. By default `RUNBOOKS`.

    Returns:
        The files that were written, relative to the folder.

    Raises:
        DashboardError: a file cannot be written.

    """
    source, written = find_folder(), []
    try:
        for path, name in _list_files(source):
            text = path.read_text(encoding="utf-8")
            if runbooks is not None:
                text = text.replace(RUNBOOKS, runbooks.rstrip("/"))
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(text, encoding="utf-8")
            written.append(name)
    except OSError as error:
        raise DashboardError(f"cannot write to {target}: {error}") from error
    return written


def _list_files(source: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each file, and its name in the exported folder."""
    for pattern in _EXPORTED:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                yield path, path.relative_to(source)
    # In a checkout they are a part of the documentation.
    packaged = source / "runbooks"
    for path in sorted((packaged if packaged.is_dir() else source.parent / "docs" / "runbooks").glob("*.md")):
        yield path, Path("runbooks") / path.name


def push_dashboards(url: str, token: str, folder: str | None = None) -> Iterator[str]:
    """Create the dashboards in a Grafana, or replace those with the same uid.

    Args:
        url: Grafana's address; it may have a path.
        token: of a service account that may write dashboards.
        folder: the uid of the folder to put them in. By default the top level.

    Yields:
        The title and the address of each dashboard, once Grafana has it.

    Raises:
        DashboardError: grafana-client is not installed, or Grafana does not answer or refuses a dashboard.

    """
    try:
        from grafana_client.api import GrafanaApi  # type: ignore[import-untyped] # noqa: PLC0415 - an optional extra
        from grafana_client.client import (  # type: ignore[import-untyped] # noqa: PLC0415 - an optional extra
            GrafanaException,
            TokenAuth,
        )
    except ImportError as error:
        raise DashboardError("pushing needs grafana-client: pip install 'loco-otel[grafana]'") from error
    api = GrafanaApi.from_url(url, credential=TokenAuth(token))
    with closing(api.client.s):
        for dashboard in load_dashboards():
            body = {"dashboard": dashboard, "overwrite": True, "message": f"loco-otel {loco_otel.__version__}"}
            try:
                answer = api.dashboard.update_dashboard({**body, **({"folderUid": folder} if folder else {})})
            except (GrafanaException, OSError) as error:
                raise DashboardError(f"Grafana at {url} does not accept {dashboard['title']}: {error}") from error
            yield f"{dashboard['title']}: {url.rstrip('/')}{answer.get('url', '')}"
