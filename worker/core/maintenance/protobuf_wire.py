"""Writes protocol buffers: the few kinds of fields that an ONNX model is made of.

Written by hand because the bytes are published by their checksum: they must be a function of the model alone, while a
library may order or pack fields anew with any release. Encoding: protobuf.dev, "Encoding"; every reader takes packed
numbers, whether the schema says so or not.
"""

from collections.abc import Iterable

_VARINT, _DELIMITED = 0, 2
_SEVEN_BITS = 0x7F
_MORE = 0x80
_WORD = 1 << 64


def varint(number: int) -> bytes:
    """Return an integer of 64 bits, seven to a byte, the lowest first; a negative one as its two's complement."""
    if not -(_WORD >> 1) <= number < _WORD >> 1:
        raise ValueError(f"{number} does not fit into 64 bits")
    left, written = number % _WORD, bytearray()
    while left > _SEVEN_BITS:
        written.append(left & _SEVEN_BITS | _MORE)
        left >>= 7
    written.append(left)
    return bytes(written)


def integer(field: int, number: int) -> bytes:
    """Return a field that holds one integer."""
    return varint(field << 3 | _VARINT) + varint(number)


def packed(field: int, numbers: Iterable[int]) -> bytes:
    """Return a repeated field of integers."""
    return message(field, b"".join(map(varint, numbers)))


def text(field: int, value: str) -> bytes:
    """Return a field that holds a text."""
    return message(field, value.encode())


def message(field: int, *parts: bytes) -> bytes:
    """Return a field that holds bytes, or another message made of these parts."""
    body = b"".join(parts)
    return varint(field << 3 | _DELIMITED) + varint(len(body)) + body
