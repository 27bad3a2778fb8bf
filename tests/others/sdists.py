"""Source distributions: downloads them from the package index that pip is configured for, and unpacks them."""

import subprocess
import sys
import tarfile
from importlib.metadata import distributions
from pathlib import Path


def read_versions(environment: Path) -> dict[str, str]:
    """Return the version of each distribution of a virtual environment."""
    (packages,) = environment.glob("lib/python*/site-packages")
    found = distributions(path=[str(packages)])
    return {each.metadata["Name"].lower().replace("_", "-"): each.version for each in found}


def fetch_sdist(name: str, version: str, folder: Path) -> Path | None:
    """Return the folder of an unpacked source distribution, or None if the index has none of this version."""
    stem = f"{name.replace('-', '_')}-{version}"
    unpacked = folder / stem
    if unpacked.is_dir():
        return unpacked
    archive = folder / f"{stem}.tar.gz"
    if not archive.exists():
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([*pip, "--no-binary", name, "--dest", str(folder), f"{name}=={version}"], check=False)
    if not archive.exists():
        return None
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return unpacked
