"""Ids derived from what they name, so that a repeat is recognisable, and seeds derived the same way."""

from hashlib import blake2b

_SEPARATOR = b"\x1f"


def derived_id(*parts: str | int) -> str:
    """Return 32 hexadecimal digits that depend on the parts and their order alone."""
    return _digest(parts, 16).hex()


def derived_seed(*parts: str | int) -> int:
    """Return a seed in [0, 2^32) that depends on the parts and their order alone."""
    return int.from_bytes(_digest(parts, 4), "little")


def _digest(parts: tuple[str | int, ...], size: int) -> bytes:
    # The length in front of each part keeps ("ab", "c") and ("a", "bc") apart; lone surrogates cannot occur (codec).
    encoded = (str(part).encode() for part in parts)
    return blake2b(_SEPARATOR.join(b"%d:%b" % (len(part), part) for part in encoded), digest_size=size).digest()
