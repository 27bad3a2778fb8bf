"""What reads from the server without being one of the processes that share it."""

from types import TracebackType
from typing import Any, Self

from loco_otel._config.engine_rules import EngineAddress
from loco_otel._engine.redis.connection import Connection
from loco_otel._engine.redis.resp import ServerError


class Client:
    """Sends one command at a time, to the node of a cluster that has the keys. Opens its connection on demand.

    Args:
        address: of the server.
        timeout: seconds to wait for each reply.

    """

    def __init__(self, address: EngineAddress, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def call(self, *arguments: str | int) -> Any:
        """Send a command and return its reply. After an error the next call opens another connection.

        Raises:
            Exception: the server cannot be used now.

        """
        try:
            return self._send(arguments, None)
        except ServerError as error:
            if error.moved_to is None:
                raise
            self.close()
            return self._send(arguments, error.moved_to)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, arguments: tuple[str | int, ...], at: tuple[str, int] | None) -> Any:
        try:
            if self._connection is None:
                self._connection = Connection(self._address, self._timeout, at)
            return self._connection.call(*arguments)
        except ServerError:
            raise
        except Exception:
            self.close()
            raise
