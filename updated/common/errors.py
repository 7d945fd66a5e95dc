"""The shape of every error that an operator may see.

Each daemon derives one root error from `OperatorError` and pins its codes in one enum. The message says what
happened, the hint says what to do, and `retry` tells the machinery whether trying again can help.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from updated.common.text import printable


class Retry(Enum):
    """What a caller may try after an error."""

    NO = "no"  # the same input fails again
    LATER = "later"  # the fault is in transit or in a server: the same step may work later
    OTHER_SOURCE = "other-source"  # this copy of the data is bad; another URL may hold a good one


class OperatorError(Exception):
    """An error with a pinned code, a sentence for the operator and a retry hint.

    Sentence and hint may quote what a server, a disk or a bus sent, and end in the state file, the journal, on D-Bus
    and on a terminal: so both are one printable line of bounded length, whoever made them.
    """

    refused = False  # whether policy or trust said no: a command exits with 3

    def __init__(self, code: IntEnum, message: str, *, hint: str, retry: Retry = Retry.NO) -> None:
        message = printable(message)
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = printable(hint)
        self.retry = retry

    @property
    def name(self) -> str:
        """The code's name as scripts see it, `payload-hash-mismatch`."""
        return self.code.name.lower().replace("_", "-")
