"""State that can be stored: plain values as bytes, everything long as named arrays; and the checks on its way back.

Stored bytes are proven by a checksum, but whoever can write to the state topic can also write a checksum. Kernels do
not look where they read. So an object that takes arrays back checks first all that its kernels rely on, and refuses
the rest: a `ValueError` that says why, never a crash, and no allocation that the payload chooses.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
import numpy as np

AnyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Arrays: TypeAlias = Mapping[str, AnyArray]
"""Named arrays: all of an object's state, or a part of it. They are the live ones, not copies."""

_T = TypeVar("_T")

COUNT_MAX = 2**53
"""No counter gets so far (a million events a second for 285 years); a few hundred of them add up without overflow."""


class State(NamedTuple):
    """What is stored of an object: a msgpack-encoded struct, and named arrays."""

    plain: bytes
    arrays: Arrays


def decoded(plain: bytes | memoryview, struct: type[_T]) -> _T:
    """Return the struct that `plain` holds; ValueError if it is anything else."""
    try:
        return msgspec.msgpack.decode(plain, type=struct)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the plain part cannot be read: {error}") from None


def prefixed(part: str, arrays: Arrays) -> dict[str, AnyArray]:
    """Return the arrays of one part of an object under names that tell the part."""
    return {f"{part}.{name}": array for name, array in arrays.items()}


def by_part(what: str, arrays: Arrays, parts: Iterable[str]) -> dict[str, dict[str, AnyArray]]:
    """Undo `prefixed` for all parts of an object; ValueError for an array of none of them."""
    found: dict[str, dict[str, AnyArray]] = {part: {} for part in parts}
    for key, array in arrays.items():
        part, _, name = key.partition(".")
        if part not in found:
            raise ValueError(f"{what}: nothing here has an array `{key}`")
        found[part][name] = array
    return found


def blank(dtype: type[np.generic], *shape: int) -> AnyArray:
    """Return an array that takes no memory, for `check_like` to compare with."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def check_like(what: str, arrays: Arrays, like: Arrays) -> None:
    """Refuse arrays that do not have exactly the names, types and shapes of `like`."""
    if arrays.keys() != like.keys():
        raise ValueError(f"{what}: there are the arrays {sorted(arrays)} instead of {sorted(like)}")
    for name, mine in like.items():
        array = arrays[name]
        if array.dtype != mine.dtype or array.shape != mine.shape:
            raise ValueError(f"{what}: `{name}` is {array.dtype}{array.shape} instead of {mine.dtype}{mine.shape}")


def refuse_if(what: str, reasons: Mapping[str, bool | np.bool_]) -> None:
    """Raise ValueError with the first reason that is given."""
    for reason, given in reasons.items():
        if given:
            raise ValueError(f"{what}: {reason}")


def outside(array: AnyArray, low: float | AnyArray, high: float | AnyArray) -> bool:
    """Return whether any element is not within [low, high]; NaN is not."""
    return not ((array >= low) & (array <= high)).all()


def fill(mine: Arrays, arrays: Arrays) -> None:
    """Copy arrays that `check_like` has passed into the live ones."""
    for name, array in mine.items():
        array[...] = arrays[name]
