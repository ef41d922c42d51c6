"""The messages of the local lane, as ``backend_openvino/src/lane_message.h`` states them.

Both ends have the same version, magic and codes; a test compares them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from policyctl.client.tensors import NUMPY
from policyctl.errors import UsageError

MAGIC: Final = 0x4C504C43
VERSION: Final = 2
INFER: Final = 1
CONFIG: Final = 2
STATISTICS: Final = 3
SERVED: Final = -1
"""The version of whatever is served."""

HELLO: Final = struct.Struct("<IIQ")
REQUEST: Final = struct.Struct("<IHHQqQ")
ANSWER: Final = struct.Struct("<IIqqqQ")
TENSOR: Final = struct.Struct("<BBQQ")
MESSAGE_BYTES: Final = 16 << 10
_MOST_OF_A_TEXT: Final = 255

TYPES: Final = (
    *("", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64"),
)
"""By Triton's numbers."""
NUMBERS: Final = {NUMPY[name]: number for number, name in enumerate(TYPES) if name in NUMPY}


class Code(IntEnum):
    """Of an answer: Triton's own plus one, by gRPC's names; from 100 on, those of the lane itself."""

    OK = 0
    UNKNOWN = 1
    INTERNAL = 2
    NOT_FOUND = 3
    INVALID_ARGUMENT = 4
    UNAVAILABLE = 5
    UNIMPLEMENTED = 6
    ALREADY_EXISTS = 7
    CANCELLED = 8
    TOO_SMALL = 100
    """The answer needs more shared memory."""
    TOO_MANY_SESSIONS = 101
    """More cannot be open."""
    MEMORY_TAKEN = 102
    """All that the sessions may have together."""
    OTHER_USER = 103
    """The client is not of the server's user."""
    OTHER_VERSION = 104
    """Of this protocol."""
    MODEL_HANGS = 105
    """Too many of its requests have no client any more."""

    @classmethod
    def _missing_(cls, value: object) -> Code:
        # A later server's; its message says what is wrong.
        return cls.UNKNOWN


def text(value: str) -> bytes:
    """`value` with its length before it.

    Raises:
        UsageError: It is too long.
    """
    encoded = value.encode()
    if len(encoded) > _MOST_OF_A_TEXT:
        raise UsageError(f"{value[:32]!r}... has more than {_MOST_OF_A_TEXT} bytes", remedy="Use a shorter one.")
    return bytes((len(encoded),)) + encoded


def text_at(message: bytes, at: int) -> tuple[str, int]:
    """The text at a place of a message, and the place behind it.

    Raises:
        ValueError: The message ends before, or it is not UTF-8.
        IndexError: Nothing is there.
    """
    if (end := at + 1 + message[at]) > len(message):
        raise ValueError("a text that is longer than its message")
    return message[at + 1 : end].decode(), end
