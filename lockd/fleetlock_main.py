"""The lockd-fleetlock command: a lock manager for hosts that speak FleetLock, in front of the tickets in etcd."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lockd.errors import ErrorCode, LocalError
from lockd.etcd import EtcdClient
from lockd.fleetlock_config import LoadedServer, ServerSettings, load_server, split_address
from lockd.fleetlock_settings import read_tokens
from lockd.main import daemon_exit_code
from lockd.store import EtcdStore
from lockd.wiring import open_client
from updated.common import cli, log, notify
from updated.common.clock import Clock, SystemClock

if TYPE_CHECKING:
    import uvicorn

logger = log.get_logger("fleetlock")

CONNECTIONS = 4096  # at once; one more is told to come again
IDLE_SECS = 30  # until a connection's first request, and between two, each with its whole head
STARTING_SECS = 0.05  # between two looks whether the server has started


def main() -> None:
    """Run the `lockd-fleetlock` command."""
    cli.run(_main, exit_code=daemon_exit_code)


def _main() -> int:
    parser = cli.parser(
        "lockd-fleetlock",
        "A FleetLock lock manager in front of the reboot tickets in etcd.",
        "LOCKD_FLEETLOCK_CONFIG=./lockd-fleetlock.toml lockd-fleetlock",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of the system's")
    arguments: argparse.Namespace = parser.parse_args()
    loaded = load_server(arguments.config, os.environ)
    log.configure(loaded.settings.log_level)
    for key in loaded.unknown:
        logger.warning("unknown-setting", key=key, file=loaded.layers.origin[key])
    return asyncio.run(_run(loaded))


async def _run(loaded: LoadedServer) -> int:
    settings, clock = loaded.settings, SystemClock()
    client = open_client(settings.etcd)
    notifier = notify.from_environment(os.environ)
    try:
        sock = _listen(settings.listen)
        server = _make_server(settings, client, clock)
        scheme, (host, port) = "https" if settings.cert_file else "http", sock.getsockname()[:2]
        logger.info("listening", url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/")
        await _serve(server, sock, notifier, clock)
    finally:
        notifier.stopping()
        await client.close()
    logger.info("stopped")
    return cli.Exit.DONE


async def _serve(server: uvicorn.Server, sock: socket.socket, notifier: notify.Notifier, clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # the server raises again what it was stopped by: it ends here
        loop.add_signal_handler(number, _stop, server)
    beating = asyncio.create_task(_beat(server, notifier, clock))
    try:
        await server.serve(sockets=[sock])
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


async def _beat(server: uvicorn.Server, notifier: notify.Notifier, clock: Clock) -> None:
    """Tell the service manager when the server has started, and that its loop turns."""
    while not server.started:
        await clock.sleep(STARTING_SECS)
    notifier.ready()
    logger.info("ready")
    while notifier.watchdog_secs:
        notifier.watchdog()
        await clock.sleep(notifier.watchdog_secs / 3)


def _make_server(settings: ServerSettings, client: EtcdClient, clock: Clock) -> uvicorn.Server:
    try:
        import uvicorn  # noqa: PLC0415 - an optional extra, asked for only here

        from lockd.fleetlock_server import Desk, ImpatientProtocol, make_app  # noqa: PLC0415
    except ImportError as error:
        raise LocalError(
            ErrorCode.STATE, f"the server's libraries are missing: {error}",
            hint="Install them: pip install 'updated[server]'.",
        ) from error  # fmt: skip
    etcd = settings.etcd
    stores = {
        group: EtcdStore(client, prefix=etcd.prefix, group=group, lease_ttl_secs=etcd.lease_ttl_secs)
        for group in settings.groups
    }
    tokens = tuple(token.encode() for token in read_tokens(settings.token_file))
    desk = Desk(stores, clock, tokens, settings.expected_down_secs)
    config = uvicorn.Config(
        make_app(desk), log_level="warning", access_log=False, server_header=False, lifespan="off",
        http=ImpatientProtocol, ws="none", limit_concurrency=CONNECTIONS, timeout_keep_alive=IDLE_SECS,
        timeout_graceful_shutdown=5, **_tls(settings),
    )  # fmt: skip
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise LocalError(
            ErrorCode.CONFIG, f"the TLS files can't be loaded: {error}",
            hint="Check cert_file, key_file and client_ca_file, and who may read them.",
        ) from error  # fmt: skip
    return uvicorn.Server(config)


def _tls(settings: ServerSettings) -> dict[str, Any]:
    if settings.cert_file is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": settings.cert_file, "ssl_keyfile": settings.key_file}
    if settings.client_ca_file:
        options |= {"ssl_ca_certs": str(settings.client_ca_file), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _listen(address: str) -> socket.socket:
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        return socket.create_server(found[0][4], family=family, backlog=1024)
    except (OSError, ValueError) as error:  # ValueError: a name that no host can have, says IDNA
        raise LocalError(
            ErrorCode.STATE, f"can't listen on {address}: {error}", hint="Correct `listen`, or stop who is there."
        ) from error


if __name__ == "__main__":
    main()
