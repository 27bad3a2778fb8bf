"""The ways in which a server is reached: Valkey's URL, TLS, few rights, Sentinel with a replica, a cluster."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme
from redis_server import RedisServer
from sdk_server import free_port
from shared_engine import wait_until

ACL = "on >secret ~loco:* +@read +@write +evalsha +script|load +blpop +time +ping +info +client|setname +select"
"""As docs/engine.md states it."""


class Deployment(NamedTuple):
    """Where a program connects to, and what the test may do to it."""

    url: str
    fail_over: Callable[[], None] | None = None
    """Makes another server the primary."""


@contextmanager
def start_with_valkey_url(folder: Path) -> Iterator[Deployment]:
    """Start a server that is named as Valkey's clients name it."""
    with ExitStack() as stack:
        stack.callback((server := RedisServer(folder)).close)
        yield Deployment(f"valkey://127.0.0.1:{server.port}/0")


@contextmanager
def start_tls(folder: Path) -> Iterator[Deployment]:
    """Start a server that is reached by TLS, and whose certificate is signed by an authority of the test's own."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    port = free_port()
    options = (
        *("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-ca-cert-file", str(folder / "ca.pem")),
        *("--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem")),
    )
    with ExitStack() as stack:
        stack.callback(RedisServer(folder, options=options).close)
        yield Deployment(f"rediss://127.0.0.1:{port}?ssl_ca_certs={folder / 'ca.pem'}")


@contextmanager
def start_with_user(folder: Path) -> Iterator[Deployment]:
    """Start a server with a user that has the rights of the documentation, and no other."""
    server = RedisServer(folder)
    try:
        assert server.call("ACL", "SETUSER", "loco", *ACL.split()) == b"+OK\r\n"
        yield Deployment(f"redis://loco:secret@127.0.0.1:{server.port}/0")
    finally:
        server.close()


@contextmanager
def start_sentinel(folder: Path) -> Iterator[Deployment]:
    """Start a primary, its replica and a sentinel."""
    with _start_replicated(folder) as (_, replica, sentinel):

        def fail_over() -> None:
            # It is refused until the sentinel has heard that the replica is in step.
            wait_until(lambda: sentinel.call("SENTINEL", "FAILOVER", "main") == b"+OK\r\n")
            wait_until(lambda: _is_primary(replica))

        yield Deployment(f"redis+sentinel://127.0.0.1:{sentinel.port}/main", fail_over)


def _is_primary(server: RedisServer) -> bool:
    try:
        return b"role:master" in server.call("INFO", "replication")
    except ConnectionResetError:  # the sentinel ends all connections of the server that it promotes
        return False


@contextmanager
def start_sentinel_with_password(folder: Path) -> Iterator[Deployment]:
    """Start a primary and a sentinel that require the same password."""
    with _start_replicated(folder) as (primary, _, sentinel):
        for server in (primary, sentinel):
            assert server.call("ACL", "SETUSER", "default", ">secret") == b"+OK\r\n"
        yield Deployment(f"redis+sentinel://:secret@127.0.0.1:{sentinel.port}/main")


@contextmanager
def _start_replicated(folder: Path) -> Iterator[list[RedisServer]]:
    servers: list[RedisServer] = []
    with ExitStack() as stack:
        for name in ("primary", "replica", "sentinel"):
            (own := folder / name).mkdir()
            options: tuple[str, ...] = ("--repl-diskless-sync-delay", "0")
            if name == "replica":
                options = ("--replicaof", "127.0.0.1", str(servers[0].port))
            elif name == "sentinel":
                monitor = f"sentinel monitor main 127.0.0.1 {servers[0].port} 1\n"
                (config := own / "sentinel.conf").write_text(monitor)
                options = (str(config), "--sentinel")
            servers.append(RedisServer(own, options=options))
            stack.callback(servers[-1].close)
        _, replica, sentinel = servers
        wait_until(lambda: b"master_link_status:up" in replica.call("INFO", "replication"))
        wait_until(lambda: f"{replica.port}".encode() in sentinel.call("SENTINEL", "REPLICAS", "main"))
        yield servers


@contextmanager
def start_cluster(folder: Path) -> Iterator[Deployment]:
    """Start a cluster of two nodes, whose first, which the URL names, has no slot."""
    with ExitStack() as stack:
        nodes, ports = [], [str(free_port()), str(free_port())]
        for port in ports:
            (own := folder / port).mkdir()
            nodes.append(RedisServer(own, options=("--cluster-enabled", "yes", "--cluster-port", port)))
            stack.callback(nodes[-1].close)
        first, second = nodes
        assert second.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383") == b"+OK\r\n"
        assert first.call("CLUSTER", "MEET", "127.0.0.1", str(second.port), ports[1]) == b"+OK\r\n"
        wait_until(lambda: b"cluster_state:ok" in first.call("CLUSTER", "INFO"))
        yield Deployment(first.url)
