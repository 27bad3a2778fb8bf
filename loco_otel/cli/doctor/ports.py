"""Whether somebody listens on a port, and whether we could."""

import errno
import socket

CONNECT_TIMEOUT = 1.0
"""Seconds to wait for an answer."""


def find_connect_error(host: str, port: int) -> str:
    """Try to connect; return why it did not succeed, or nothing."""
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return _describe_error(error)
    return ""


def find_listen_error(host: str, port: int) -> str:
    """Try to listen, as prometheus_client does; return why it did not succeed, or nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address[0], port))
            listener.listen()
    except (OSError, OverflowError, UnicodeError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        return "the port is taken" if taken else _describe_error(error)
    return ""


def _describe_error(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_TIMEOUT:g} s"
    return getattr(error, "strerror", None) or str(error)
