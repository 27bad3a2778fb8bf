"""What values of settings have in common, before they are told apart."""

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

TOO_LARGE = "too_large"
"""The type of the error whose message says what is allowed by itself."""
MAX_NUMBER = 1_000_000_000
"""Of anything: no lock waits much longer than so many seconds, and the milli-weights of a thousand waiters of such a
weight still add up exactly as a double."""


def reject_bool(value: object) -> object:
    """Keep `true` from being taken for 1.

    Raises:
        ValueError: it is one.

    """
    if isinstance(value, bool):
        raise ValueError("a truth value is no number")  # noqa: TRY004 - pydantic collects ValueErrors only
    return value


def reject_too_large(value: float) -> float:
    """Return a number that is not absurd.

    Raises:
        PydanticCustomError: it is.

    """
    if value > MAX_NUMBER:
        raise PydanticCustomError(TOO_LARGE, "at most {most}", {"most": MAX_NUMBER})
    return value


def convert_to_lower(value: object) -> object:
    """Return a word in small letters."""
    return value.lower() if isinstance(value, str) else value


def accept_none_word(word: str) -> BeforeValidator:
    """Return what takes a word, in any letters, for None."""
    return BeforeValidator(lambda value: None if convert_to_lower(value) == word else value)
