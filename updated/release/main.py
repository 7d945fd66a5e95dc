"""The update-payload command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from updated.common import cli
from updated.common.errors import OperatorError
from updated.errors import ErrorCode, LocalError, RefusedError
from updated.install.keys import read_keyring
from updated.release.attach import attach, digest
from updated.release.build import BuildRequest, build
from updated.release.chunks import COMPRESSIONS
from updated.release.extract import check_packages, extract, inspect, verify
from updated.release.packages import parse_package
from updated.release.sign import keygen
from updated.release.slot_parts import write_tree


def main() -> None:
    """Run the `update-payload` command."""
    cli.run(_main, exit_code=exit_code)


def exit_code(error: OperatorError) -> cli.Exit:
    """Return the exit code that an error means to a script."""
    # a file that is cut off or goes on isn't what was signed: that is what `verify` is asked about
    if isinstance(error, RefusedError) or error.code is ErrorCode.PAYLOAD_SIZE_MISMATCH:
        return cli.Exit.REFUSED
    return cli.Exit.USAGE if error.code is ErrorCode.USAGE else cli.Exit.FAILED


def _main() -> int:
    arguments = _parser().parse_args()
    commands: dict[str, Callable[[argparse.Namespace], None]] = {
        "keygen": _keygen,
        "build": _build,
        "verity": _verity,
        "inspect": _inspect,
        "verify": _verify,
        "extract": _extract,
        "digest": _digest,
        "attach": _attach,
    }
    commands[arguments.command](arguments)
    return cli.Exit.DONE


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        "update-payload",
        "Builds, signs, checks and takes apart update payloads (CrAU version 1 and 2).",
        "update-payload build root.img --product org.example.os --channel stable --version 1.1.0"
        " --rollback-index 2 --key private.pem --out releases",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("keygen", help="make an RSA key pair")
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--bits", type=int, choices=(2048, 3072, 4096), default=2048)
    _add_build(commands.add_parser("build", help="build and sign a payload from an image"))
    command = commands.add_parser("verity", help="make an image's dm-verity tree and print its root hash")
    command.add_argument("image", type=Path)
    command.add_argument("--out", type=Path, required=True, metavar="HASH_IMAGE")
    command = commands.add_parser("digest", help="write what an HSM is to sign: metadata.sha256 and payload.sha256")
    command.add_argument("file", type=Path)
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command = commands.add_parser("attach", help="put signatures that were made elsewhere into a payload")
    command.add_argument("file", type=Path)
    command.add_argument("signatures", type=Path, nargs="+", metavar="SIGNATURE", help="raw, of the metadata first")
    command.add_argument("--out", type=Path, required=True, metavar="FILE")
    command = commands.add_parser("inspect", help="show what a payload says of itself, without believing it")
    command.add_argument("file", type=Path)
    command.add_argument("--json", action="store_true", help="print JSON")
    command = commands.add_parser("verify", help="check signatures and hashes; exits with 3 when they don't hold")
    command.add_argument("file", type=Path)
    command.add_argument("--keys", type=Path, required=True, metavar="DIR")
    command = commands.add_parser("extract", help="write one partition's image")
    command.add_argument("file", type=Path)
    command.add_argument("--partition", required=True, metavar="NAME")
    command.add_argument("--out", type=Path, required=True, metavar="IMAGE")
    command.add_argument("--old", type=Path, metavar="OLD_IMAGE", help="what a delta was made from")
    trust = command.add_mutually_exclusive_group(required=True)
    trust.add_argument("--keys", type=Path, metavar="DIR")
    trust.add_argument("--no-verify", action="store_true", help="check hashes only")
    return parser


def _add_build(command: argparse.ArgumentParser) -> None:
    command.add_argument("image", type=Path)
    command.add_argument("--product", required=True, metavar="ID")
    command.add_argument("--channel", required=True, metavar="NAME")
    command.add_argument("--version", required=True, metavar="V")
    command.add_argument("--rollback-index", type=int, required=True, metavar="N")
    command.add_argument(
        "--key", type=Path, required=True, action="append", metavar="PRIVATE.pem", help="repeat it to sign with several"
    )
    command.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_argument("--old", type=Path, metavar="OLD_IMAGE", help="make a delta from this image")
    command.add_argument("--partition", default="root", metavar="NAME")
    command.add_argument("--kernel", type=Path, metavar="FILE")
    command.add_argument("--initrd", type=Path, metavar="FILE", help="with --kernel")
    command.add_argument("--uki", type=Path, metavar="FILE", help="a unified kernel image, instead of both")
    command.add_argument("--verity", type=Path, metavar="HASH_IMAGE", help="the image's dm-verity tree")
    command.add_argument("--make-verity", action="store_true", help="make the image's dm-verity tree")
    command.add_argument("--major", type=int, choices=(1, 2), default=2)
    command.add_argument("--compression", choices=tuple(COMPRESSIONS), help="default: zstd, for version 1 bz2")
    command.add_argument("--chunk-kib", type=int, metavar="N", help="default: about 64 along files; version 1: 1024")
    command.add_argument(
        "--package", action="append", default=[], metavar="FILE[:KIND]", help="a further file; may be repeated"
    )
    command.add_argument("--not-after", metavar="DATE", help="ISO 8601, UTC unless it says otherwise")
    command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")


def _keygen(arguments: argparse.Namespace) -> None:
    keygen(arguments.out, arguments.bits)
    print(f"{arguments.out / 'private.pem'}: keep it secret; it signs releases")
    print(f"{arguments.out / 'public.pem'}: goes to every host, into trust.keys_dir")


def _build(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    del given["command"]
    given["key"] = tuple(given["key"])
    given["packages"] = tuple(parse_package(text) for text in given.pop("package"))
    if given["not_after"] is not None:
        given["not_after"] = _date(given["not_after"])
    print(build(BuildRequest(**given)))


def _verity(arguments: argparse.Namespace) -> None:
    print(write_tree(arguments.image, arguments.out))


def _date(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise LocalError(ErrorCode.USAGE, f"{text!r} is no date", hint="Write it as 2027-01-31.") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _inspect(arguments: argparse.Namespace) -> None:
    facts = inspect(arguments.file)
    if arguments.json:
        cli.print_json(facts)
        return
    for key, value in facts.items():
        if key not in ("partitions", "packages", "signatures"):
            print(f"{key:<15} {value}")
    for entry in facts["signatures"]:
        print(f"{'signature':<15} RSA {entry['bits']}, version {entry['version']}")
    for partition in facts["partitions"]:
        operations = ", ".join(f"{kind} {made['count']}" for kind, made in partition["operations"].items())
        print(f"{'partition':<15} {partition['name']}: {partition['size']} bytes, {operations}")
    for package in facts["packages"]:
        print(f"{'package':<15} {package['name']}: {package['size']} bytes, {package['kind'] or 'file'}")


def _verify(arguments: argparse.Namespace) -> None:
    manifest, key = verify(arguments.file, read_keyring(arguments.keys))
    missing = check_packages(manifest, arguments.file)
    version = manifest.identity.version if manifest.identity else "of unknown version"
    print(f"{arguments.file}: release {version}, signed by {key}, every hash holds")
    if missing:
        print(f"not looked at, for they aren't beside it: {', '.join(missing)}", file=sys.stderr)


def _digest(arguments: argparse.Namespace) -> None:
    for path in digest(arguments.file, arguments.out):
        print(path)


def _attach(arguments: argparse.Namespace) -> None:
    attach(arguments.file, arguments.signatures, arguments.out)
    print(arguments.out)


def _extract(arguments: argparse.Namespace) -> None:
    keyring = None if arguments.no_verify else read_keyring(arguments.keys)
    extract(arguments.file, arguments.partition, arguments.out, old=arguments.old, keyring=keyring)
    print(arguments.out)


if __name__ == "__main__":
    main()
