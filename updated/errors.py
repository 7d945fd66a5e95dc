"""Every error of `updated`: one tree, pinned numbers that are never reused.

Numbers up to 199 are update_engine's ActionExitCode where its meaning is ours, so that an Omaha server that knows
update_engine understands our error events; 2000 plus an HTTP status is its form for a failed request. Numbers from
200 are our own.
"""

from __future__ import annotations

from enum import IntEnum

from updated.common.errors import OperatorError, Retry

__all__ = ["ErrorCode", "LocalError", "RefusedError", "RemoteError", "Retry", "UpdateError"]


class ErrorCode(IntEnum):
    """The pinned codes."""

    ERROR = 1
    OMAHA_REQUEST = 2
    POSTINSTALL = 5
    INSTALL_DEVICE_OPEN = 7
    DOWNLOAD_TRANSFER = 9
    PAYLOAD_HASH_MISMATCH = 10
    PAYLOAD_SIZE_MISMATCH = 11
    PAYLOAD_VERIFICATION = 12
    NEW_PARTITION_INFO = 13
    DOWNLOAD_WRITE = 14
    PARTITION_HASH_MISMATCH = 15  # what was read back isn't what was signed
    FILE_HASH_MISMATCH = 16  # the same for a file that a procedure wrote (a kernel)
    SIGNATURE_MISSING = 17
    SIGNATURE_MISMATCH = 18
    SOURCE_MISMATCH = 20  # a delta's source isn't the image that it was made from
    METADATA_MAGIC = 21
    MANIFEST_PARSE = 23
    METADATA_SIGNATURE_MISMATCH = 26
    OPERATION_EXECUTION = 28
    OPERATION_HASH_MISMATCH = 29
    OMAHA_EMPTY_RESPONSE = 30
    OMAHA_XML_PARSE = 31
    METADATA_SIZE = 32
    OMAHA_RESPONSE_INVALID = 34
    DEFERRED_FOR_BACKOFF = 40
    OPERATION_HASH_MISSING = 38
    METADATA_SIGNATURE_MISSING = 39
    ROLLED_BACK = 44

    KEY_MISSING = 200
    KEY_WEAK = 201
    KEY_UNREADABLE = 202
    KEY_REVOKED = 203

    PRODUCT_MISMATCH = 210
    CHANNEL_MISMATCH = 211
    ROLLBACK_INDEX_TOO_LOW = 212
    RELEASE_EXPIRED = 213
    IDENTITY_MISSING = 214
    VERSION_FAILED_BEFORE = 215

    PAYLOAD_VERSION_UNKNOWN = 220
    OPERATION_UNSUPPORTED = 221
    LIMIT_EXCEEDED = 222
    EXTENT_OUT_OF_RANGE = 223
    EXTENT_EMPTY = 224
    EXTENT_OVERLAP = 225
    PARTITION_UNKNOWN = 226
    INDEX_INVALID = 227
    PACKAGE_MISMATCH = 228  # a further file of the release isn't what was signed
    PACKAGE_NO_PLACE = 229

    TARGET_IS_RUNNING = 230
    TARGET_MOUNTED = 231
    TARGET_TOO_SMALL = 232
    TARGET_BUSY = 233
    SLOT_NOT_FOUND = 234
    GPT_INVALID = 235
    BOOT_CONTROL = 236
    READ_BACK = 237  # the medium can't be read back

    OMAHA_DTD = 240
    OMAHA_TOO_LARGE = 241
    PACKAGE_NAME = 242
    OMAHA_WRONG_APP = 243
    OMAHA_REFUSED = 244  # the server's own "not now" or "not you"
    OMAHA_UNREACHABLE = 245
    HTTP_STATUS = 246
    HTTP_RANGE = 247
    HTTP_REDIRECT = 248
    DOWNLOAD_TOO_SLOW = 249

    CONFIG = 250
    STATE = 251
    BUSY = 252
    UNREACHABLE = 253
    USAGE = 254
    CANCELLED = 255
    NO_SPACE = 256
    NOTHING_TO_ROLL_BACK = 257

    HEALTH_FAILED = 260

    BOOT_READ_ONLY = 280  # the boot loader's file system can't be written
    BOOT_ENTRY = 281  # no entry of a slot, or none can be made of what is there
    BOOT_MISMATCH = 282  # the entry that was booted and the root that is mounted are of different slots
    BOOT_OUTRANKED = 283  # something else would be booted whatever is armed
    BOOT_FILES = 284  # the boot loader's file system or file isn't found or can't be used

    BOOT_FILE_NO_PLACE = 290  # a kernel, initrd or UKI that this host has no place for
    VERITY_NO_PLACE = 291
    SLOT_SET_INVALID = 292  # parts of a release that don't make a slot together
    SLOT_SET_INCOMPLETE = 293  # a part is missing without which this host's boot loader boots another release's
    VERITY_MISMATCH = 294  # tree, image and root hash don't belong together

    VERSION_1_OFF = 300  # payloads of version 1 aren't taken here


HTTP_BASE = 2000  # update_engine's codes for requests that a server refused: 2000 + the status


class UpdateError(OperatorError):
    """The root of everything that `updated` raises on purpose; `status` is of an HTTP request that was refused."""

    code: ErrorCode

    def __init__(
        self, code: ErrorCode, message: str, *, hint: str, retry: Retry = Retry.NO, status: int | None = None
    ) -> None:
        super().__init__(code, message, hint=hint, retry=retry)
        self.status = status

    @property
    def reported(self) -> int:
        """The code that an Omaha server is told: update_engine's form where a server refused with a status."""
        return int(self.code) if self.status is None else HTTP_BASE + self.status


class RefusedError(UpdateError):
    """Policy or trust says no: a command exits with 3."""

    refused = True


class RemoteError(UpdateError):
    """A server or what it sent is at fault; `everywhere`: all places that have it were asked, none is left to ask."""

    everywhere = False


class LocalError(UpdateError):
    """This machine is at fault: configuration, medium, state."""
