"""The update-server command."""

from __future__ import annotations

import argparse
import socket
from ipaddress import ip_address
from pathlib import Path

from updated.common import cli
from updated.common.errors import OperatorError
from updated.common.ownership import read_owned
from updated.errors import ErrorCode, LocalError
from updated.server.catalogue import Catalogue

CONNECTIONS = 2048  # more are told to come again
IDLE_SECS = 30  # between two requests of a connection


def main() -> None:
    """Run the `update-server` command."""
    cli.run(_main, exit_code=exit_code)


def exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to a script."""
    return cli.Exit.USAGE if error.code is ErrorCode.USAGE else cli.Exit.FAILED


def _main() -> int:
    arguments = _parser().parse_args()
    if arguments.command == "publish":
        found = Catalogue(arguments.directory).publish(arguments.release, arguments.channel, arguments.percent)
        print(
            f"{found.product} {found.version} is on offer in {arguments.channel} for {arguments.percent} % of the hosts"
        )
    else:
        serve(arguments.directory, arguments.listen, arguments.public_url, arguments.token_file)
    return cli.Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "update-server",
        "A small Omaha server: offers releases to hosts and hears how they fare.",
        "update-server serve releases --listen 0.0.0.0:8080 --public-url https://updates.example.org",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("serve", help="serve a directory of releases")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("--listen", required=True, metavar="ADDR:PORT", help="port 0 takes a free one")
    command.add_argument("--public-url", metavar="URL", help="where hosts reach this server, if a proxy is in front")
    command.add_argument("--token-file", type=Path, metavar="FILE", help="what operators send to see GET /events")
    command = commands.add_parser("publish", help="offer a release on a channel")
    command.add_argument("directory", type=Path, metavar="DIR")
    command.add_argument("release", type=Path, metavar="RELEASE.json")
    command.add_argument("--channel", required=True, metavar="NAME")
    command.add_argument("--percent", type=int, default=100, metavar="P", help="of the hosts, by a hash of their id")
    return parser


def serve(directory: Path, listen: str, public_url: str | None, token_file: Path | None = None) -> None:
    """Serve until told to stop; prints where, once it listens.

    Raises:
        LocalError: USAGE or STATE; the address can't be used, or the server's libraries aren't installed.
    """
    try:
        import uvicorn  # noqa: PLC0415 - an optional extra, asked for only here

        from updated.server.app import make_app  # noqa: PLC0415
    except ImportError as error:
        raise LocalError(
            ErrorCode.STATE,
            f"the server's libraries are missing: {error}",
            hint="Install them: pip install 'updated[server]'.",
        ) from error
    if not directory.is_dir():
        raise LocalError(ErrorCode.USAGE, f"{directory} is no directory", hint="Name the directory of the releases.")
    token = _read_token(token_file)
    sock = _listen(listen)
    host, port = sock.getsockname()[:2]
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    app = make_app(directory, public_url, token, is_open=ip_address(host).is_loopback)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, limit_concurrency=CONNECTIONS, timeout_keep_alive=IDLE_SECS
    )
    uvicorn.Server(config).run(sockets=[sock])


def _read_token(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        token = read_owned(path, 4096).strip()
    except (OSError, ValueError) as error:
        raise LocalError(ErrorCode.STATE, f"{path} can't be read: {error}", hint="Name a file of yours.") from error
    if not token:
        raise LocalError(ErrorCode.STATE, f"{path} holds no token", hint="Put a line of printable ASCII into it.")
    return token


def _listen(address: str) -> socket.socket:
    host, colon, port = address.rpartition(":")
    hint = "Write it as ADDR:PORT, for example 127.0.0.1:8080 or [::1]:8080."
    if not colon or not port.isdecimal():
        raise LocalError(ErrorCode.USAGE, f"{address!r} is no address to listen on", hint=hint)
    host = host.strip("[]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except (OSError, OverflowError) as error:
        raise LocalError(ErrorCode.STATE, f"can't listen on {address}: {error}", hint=hint) from error


if __name__ == "__main__":
    main()
