"""What an error of an SDK means, in words that no SDK owns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable


class Refusal(NamedTuple):
    """An answer by which a provider refused a call, or broke it off."""

    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: object = None
    """Its parsed JSON, where it is known."""
    in_stream: bool = False
    """Whether the stream had begun well."""
    retry_after: float | None = None
    """Seconds, where the body names them."""


@runtime_checkable
class RefusalReader(Protocol):
    """An adapter whose SDK does not keep an httpx response on its errors."""

    def read_refusal(self, error: BaseException) -> Refusal | None:
        """Read an error; None where the provider gave no answer."""
