"""Checks that several settings share."""

from pathlib import Path
from urllib.parse import unquote, urlsplit
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

TOO_LARGE = "too_large"
NO_FOLDER = "no_folder"
SELF_DESCRIBED = (TOO_LARGE, NO_FOLDER)
"""The types of errors whose messages state the allowed values themselves."""
MAX_NUMBER = 1_000_000_000
"""The upper bound of all numbers: lock timeouts above about this many seconds overflow, and the milli-weights of a
thousand waiters of this weight still have an exact sum as a double.
"""


def reject_bool(value: object) -> object:
    """Reject `true`, which would be read as 1.

    Raises:
        ValueError: the value is a boolean.

    """
    if isinstance(value, bool):
        raise ValueError("a boolean is not a number")  # noqa: TRY004 - pydantic collects ValueErrors only
    return value


def reject_too_large(value: float) -> float:
    """Return a number up to the upper bound.

    Raises:
        PydanticCustomError: the number exceeds it.

    """
    if value > MAX_NUMBER:
        raise PydanticCustomError(TOO_LARGE, "at most {most}", {"most": MAX_NUMBER})
    return value


def convert_to_lower(value: object) -> object:
    """Return a string in lower case."""
    return value.lower() if isinstance(value, str) else value


def accept_none_word(word: str) -> BeforeValidator:
    """Return a validator that converts a word, in any case, to None."""
    return BeforeValidator(lambda value: None if convert_to_lower(value) == word else value)


def resolve_path(path: str | None) -> str | None:
    """Return the absolute path, as the program may change its working directory later.

    Raises:
        PydanticCustomError: it begins with a `~` or `~user` that names no home directory, or it is relative and there
            is no working directory.

    """
    try:
        return None if path is None else str(Path(path).expanduser().absolute())
    except RuntimeError:
        reason = "there is no home directory"
    except OSError:
        reason = "the working directory is gone"
    raise PydanticCustomError(NO_FOLDER, "none or the path of a file ({reason})", {"reason": reason})


def split_hosts(value: object) -> object:
    """Return the hosts of a line as a tuple, in lower case. The word `none` is no host.

    Raises:
        ValueError: an entry is more than a host and a port, such as a URL.

    """
    if not isinstance(value, str | list | tuple):
        return value
    entries = value.split(",") if isinstance(value, str) else value
    hosts = tuple(str(entry).strip().lower() for entry in entries)
    if hosts == ("none",):
        return ()
    return tuple(dict.fromkeys(_check_host(host) for host in hosts if host))


def _check_host(host: str) -> str:
    parts = urlsplit(f"//{host}")
    if parts.netloc != host or "@" in host or not parts.hostname or parts.port == 0:
        raise ValueError(f"{host!r} is not a host")
    return host


def validate_zone(name: str) -> str:
    """Return the name of a time zone.

    Raises:
        ValueError: it is none.

    """
    try:
        ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # invalid, a directory, unknown
        raise ValueError(f"{name!r} is not a time zone") from None
    return name


def wrap_single_value(value: object) -> object:
    """Return a string as a tuple of one."""
    return (value,) if isinstance(value, str) else value


def parse_service_name(resource_attributes: str) -> str:
    """Return `service.name` of `key=value,...` with percent-encoded values; the last one counts."""
    pairs = (item.partition("=") for item in resource_attributes.split(","))
    names = [unquote(value.strip()) for key, _, value in pairs if key.strip() == "service.name"]
    return names[-1].strip() if names else ""
