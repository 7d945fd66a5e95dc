"""A second reader of CrAU payloads, to judge what update-payload writes: it shares no code with the product.

Protobuf is decoded from its wire format, signatures are opened with plain modular arithmetic, and the rules are
written down from update_engine's and AOSP's formats, not from the product. Anything odd is an AssertionError.
"""

from __future__ import annotations

import base64
import bz2
import hashlib
import lzma
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import zstandard

from tests.support.crau_delta import unpatch

HOLE = 2**64 - 1
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")  # SHA-256, RFC 8017 section 9.2
REPLACE, REPLACE_BZ, ZERO, REPLACE_XZ, REPLACE_ZSTD = 0, 1, 6, 8, 14
SOURCE_COPY, SOURCE_BSDIFF, BROTLI_BSDIFF = 4, 5, 10
UNPACK: dict[int, Callable[[bytes], bytes]] = {
    REPLACE: bytes,
    REPLACE_BZ: bz2.decompress,
    REPLACE_XZ: lzma.decompress,
    REPLACE_ZSTD: lambda blob: zstandard.ZstdDecompressor().decompress(blob),
}

Value = int | bytes
Message = dict[int, list[Value]]


@dataclass
class Checked:
    """What a good payload holds."""

    major: int
    block_size: int
    images: dict[str, bytes]
    operations: dict[str, Counter[int]]  # of each image, by type
    identity: dict[str, object]
    signature_versions: list[int]
    longest_write: int  # bytes of the longest operation that has data
    noop_offsets: list[int] = field(default_factory=list)
    old: bytes = b""  # the image that a delta was made from
    packages: list[tuple[str, int, bytes, str]] = field(default_factory=list)  # name, size, SHA-256, kind


def check(payload: bytes, public_pem: bytes, others: Sequence[bytes] = (), old: bytes = b"") -> Checked:
    """Read a signed payload from end to end; return its images. A delta is applied to `old`.

    `public_pem` is the last key, the one that update_engine looks for; `others` are those before it, if all are to be
    checked.
    """
    assert payload[:4] == b"CrAU"
    major, manifest_size = struct.unpack(">QQ", payload[4:20])
    assert major in (1, 2)
    begin = 20 if major == 1 else 24
    metadata_signature_size = int.from_bytes(payload[20:24], "big") if major == 2 else 0
    metadata = payload[: begin + manifest_size]
    data_begin = len(metadata) + metadata_signature_size
    manifest = decode(metadata[begin:])
    offset, size = number(manifest, 4), number(manifest, 5)
    assert data_begin + offset + size == len(payload), "the signature ends the file"
    data = payload[data_begin : data_begin + offset]
    versions = check_signatures(payload[data_begin + offset :], metadata + data, public_pem, others)
    if major == 2:
        check_signatures(payload[len(metadata) : data_begin], metadata, public_pem, others)
    return _images(major, manifest, data, size, versions, old)


def _images(
    major: int, manifest: Message, data: bytes, signature_size: int, versions: list[int], old: bytes
) -> Checked:
    block = number(manifest, 3, 4096)
    checked = Checked(major, block, {}, {}, _identity(manifest), versions, 0, old=old)
    checked.packages = [(text(m, 1), number(m, 2), raw(m, 3), text(m, 4)) for m in messages(manifest, 1005)]
    used = 0
    for name, operations, info in _parts(major, manifest):
        image, used = _carry_out(operations, info, data, used, checked)
        checked.images[name] = image
        checked.operations[name] = Counter(number(op, 1) for op in operations)
    assert used == len(data), "every byte of data belongs to an operation"
    if major == 1:
        _check_noops(manifest, len(data), signature_size, checked)
    return checked


def _parts(major: int, manifest: Message) -> Iterator[tuple[str, list[Message], Message]]:
    if major == 1:
        assert 13 not in manifest
        yield "root", messages(manifest, 1), messages(manifest, 9)[0]
        for procedure in messages(manifest, 10):
            assert number(procedure, 1) == 0, "the only procedure that is written is the kernel"
            yield "kernel", messages(procedure, 2), messages(procedure, 4)[0]
    else:
        assert not {1, 2, 10} & set(manifest), "fields of version 1 are reserved in version 2"
        for part in messages(manifest, 13):
            yield text(part, 1), messages(part, 8), messages(part, 7)[0]


def _source(op: Message, old: bytes, block: int) -> bytes:
    """Read what an operation of a delta reads, against its hash."""
    spans = [(number(extent, 1) * block, number(extent, 2) * block) for extent in messages(op, 4)]
    assert all(begin + length <= len(old) for begin, length in spans)
    source = b"".join(old[begin : begin + length] for begin, length in spans)
    assert hashlib.sha256(source).digest() == raw(op, 9)
    return source


def _carry_out(operations: list[Message], info: Message, data: bytes, used: int, checked: Checked) -> tuple[bytes, int]:
    block, size = checked.block_size, number(info, 1)
    image = bytearray(-(-size // block) * block)
    written = bytearray(len(image) // block)  # how often each block
    for op in operations:
        made, kind = b"", number(op, 1)
        if kind == SOURCE_COPY:
            made = _source(op, checked.old, block)
        elif kind != ZERO:
            assert number(op, 2) == used, "data lie in the order of the operations, without gaps"
            blob = data[used : used + number(op, 3)]
            used += len(blob)
            assert hashlib.sha256(blob).digest() == raw(op, 8)
            patched = kind in (SOURCE_BSDIFF, BROTLI_BSDIFF)
            made = unpatch(_source(op, checked.old, block), blob) if patched else UNPACK[kind](blob)
            checked.longest_write = max(checked.longest_write, len(made))
        _write(image, written, messages(op, 6), made, block)
    assert set(written) <= {1}, "each block is written once"
    assert hashlib.sha256(image[:size]).digest() == raw(info, 2)
    return bytes(image[:size]), used


def _write(image: bytearray, written: bytearray, extents: list[Message], made: bytes, block: int) -> None:
    room = sum(number(extent, 2) for extent in extents) * block
    assert extents, "an operation writes somewhere"
    assert len(made) <= room
    made = made.ljust(room, b"\0")
    for extent in extents:
        start, count = number(extent, 1), number(extent, 2)
        assert count
        assert start < len(image) // block, "an extent begins inside the image"
        # update_engine's last chunk may reach beyond the image: what is there are its zeros
        fits = min(count, len(image) // block - start)
        assert not any(made[fits * block : count * block])
        image[start * block : (start + fits) * block] = made[: fits * block]
        for at in range(start, start + fits):
            written[at] += 1
        made = made[count * block :]


def _check_noops(manifest: Message, data_size: int, signature_size: int, checked: Checked) -> None:
    """Old clients pass over a kernel's data and the signature by writing them into a sparse hole."""
    wanted = [(number(op, 2), number(op, 3)) for part in messages(manifest, 10) for op in messages(part, 2)]
    wanted.append((data_size, signature_size))
    found = []
    for op in messages(manifest, 2):
        assert number(op, 1) == REPLACE
        (extent,) = messages(op, 6)
        assert number(extent, 1) == HOLE
        assert number(extent, 2) == -(-number(op, 3) // checked.block_size)
        found.append((number(op, 2), number(op, 3)))
    assert found == wanted
    assert all(offset + length < 2**32 for offset, length in found), "version 1 has 32 bits for an offset"
    checked.noop_offsets = [offset for offset, _ in found]


def _identity(manifest: Message) -> dict[str, object]:
    if 1000 not in manifest:
        return {}
    return {
        "product": text(manifest, 1000),
        "channels": [bytes(entry).decode() for entry in manifest.get(1001, [])],
        "version": text(manifest, 1002),
        "rollback_index": number(manifest, 1003),
        "not_after": number(manifest, 1004) if 1004 in manifest else None,
    }


def check_signatures(blob: bytes, signed: bytes, public_pem: bytes, others: Sequence[bytes] = ()) -> list[int]:
    """Check that a key made one of the signatures, the one of version 2, which alone update_engine looks at."""
    entries = [(number(entry, 1), raw(entry, 2)) for entry in messages(decode(blob), 1)]
    (judged,) = [data for version, data in entries if version == 2]
    check_signature(judged, signed, public_pem)
    if others:
        assert [data for _, data in entries].index(judged) == len(entries) - 1
        for (_, data), pem in zip(entries, [*others, public_pem], strict=True):
            check_signature(data, signed, pem)
    return [version for version, _ in entries]


def check_signature(signature: bytes, signed: bytes, public_pem: bytes) -> None:
    """Open a signature with plain arithmetic (RFC 8017, section 8.2.2)."""
    modulus, exponent = rsa_numbers(public_pem)
    length = (modulus.bit_length() + 7) // 8
    ending = DIGEST_INFO + hashlib.sha256(signed).digest()
    expected = b"\0\1" + b"\xff" * (length - len(ending) - 3) + b"\0" + ending
    assert len(signature) == length
    assert pow(int.from_bytes(signature, "big"), exponent, modulus).to_bytes(length, "big") == expected


def rsa_numbers(pem: bytes) -> tuple[int, int]:
    """Return modulus and exponent of a PEM public key (SubjectPublicKeyInfo)."""
    der = base64.b64decode(b"".join(pem.strip().splitlines()[1:-1]))
    _, outer, _ = _der(der)
    _, _, rest = _der(outer)  # the algorithm
    _, bits, _ = _der(rest)
    _, key, _ = _der(bits[1:])  # after the number of unused bits
    _, modulus, rest = _der(key)
    _, exponent, _ = _der(rest)
    return int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big")


def _der(data: bytes) -> tuple[int, bytes, bytes]:
    """Split the first DER element off: tag, contents, what follows."""
    length, at = data[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(data[2:at], "big")
    assert at + length <= len(data)
    return data[0], data[at : at + length], data[at + length :]


def decode(data: bytes) -> Message:
    """Decode one protobuf message: field number to its values; 32 and 64 bit ones as bytes."""
    found: Message = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: Value
        if tag & 7 == 0:
            value, at = _varint(data, at)
        else:
            if tag & 7 == 2:
                length, at = _varint(data, at)
            else:
                length = {1: 8, 5: 4}[tag & 7]
            value, at = data[at : at + length], at + length
        assert at <= len(data)
        found.setdefault(tag >> 3, []).append(value)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
        assert shift < 70


def number(message: Message, key: int, default: int = 0) -> int:
    """Return a whole number; the last one given counts."""
    value = message.get(key, [default])[-1]
    assert isinstance(value, int)
    return value


def raw(message: Message, key: int) -> bytes:
    """Return bytes."""
    value = message.get(key, [b""])[-1]
    assert isinstance(value, bytes)
    return value


def text(message: Message, key: int) -> str:
    """Return text."""
    return raw(message, key).decode()


def messages(message: Message, key: int) -> list[Message]:
    """Return the messages within a message."""
    return [decode(value) for value in message.get(key, []) if isinstance(value, bytes)]
