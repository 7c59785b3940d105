"""Malformed records of our own making, endlessly different: shared by the core's and Kafka's tests."""

import json
import random
from collections.abc import Callable, Iterator

GOOD = {
    "event_id": "e1",
    "model_id": "credit",
    "timestamp": 1767225600000,
    "features": {"amount": 12.5, "country": "CH", "vip": True, "age": None},
    "prediction": 0.25,
}


def good(number: int) -> bytes:
    """Return a valid event that differs from all others."""
    return json.dumps(GOOD | {"event_id": f"e{number}"}).encode()


def _with(**fields: object) -> bytes:
    return json.dumps(GOOD | fields).encode()


def _without(field: str) -> bytes:
    return json.dumps({name: value for name, value in GOOD.items() if name != field}).encode()


def _truncated(rng: random.Random) -> bytes:
    value = good(rng.randrange(10**6))
    return value[: rng.randrange(1, len(value))]


def _flipped(rng: random.Random) -> bytes:
    """Break the structure for sure: put a control character into a random place."""
    value = good(rng.randrange(10**6))
    place = rng.randrange(len(value))
    return value[:place] + bytes([rng.randrange(1, 9)]) + value[place:]


def _binary(rng: random.Random) -> bytes:
    return b"\x00" + rng.randbytes(rng.randrange(1, 200))


def _deep(rng: random.Random) -> bytes:
    depth = rng.randrange(2_000, 20_000)
    opening, closing = rng.choice([(b"[", b"]"), (b'{"a":', b"}")])
    return good(1)[:-1] + b',"extra":' + opening * depth + b"1" + closing * depth + b"}"


def _not_utf8(rng: random.Random) -> bytes:
    return good(1).replace(b"CH", rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]))


def _wrong_type(rng: random.Random) -> bytes:
    field = rng.choice(["event_id", "model_id", "features", "prediction", "timestamp", "probabilities", "segment"])
    return _with(**{field: rng.choice([[], [1], {"a": {"b": 1}}, {"a": [1]}])})


def _literal(text: str) -> bytes:
    return good(1).replace(b"12.5", text.encode())


MAKERS: list[Callable[[random.Random], bytes | None]] = [
    _truncated,
    _flipped,
    _binary,
    _deep,
    _not_utf8,
    _wrong_type,
    lambda _: b"",
    lambda _: None,
    lambda rng: b" " * rng.randrange(1, 9),
    lambda _: b"\xef\xbb\xbf" + good(1),
    lambda _: good(1).decode().encode("utf-16"),
    lambda rng: _literal(rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])),
    lambda rng: _literal(rng.choice(["01", "+1", "1.", ".5", "0x10", "1e", "nul", "True", "'1'", "1,,2"])),
    lambda rng: good(1).replace(b"CH", rng.choice([rb"\ud800", rb"\udc00", rb"\ud800x", rb"\ud8", rb"\x41"])),
    lambda rng: good(1) + rng.choice([b"x", b"{}", b",", b"\x00"]),
    lambda rng: rng.choice([b"null", b"true", b"[]", b"{}", b'"text"', b"17", b"[{}]"]),
    lambda rng: _without(rng.choice(["event_id", "model_id", "features", "prediction"])),
    lambda _: _with(event_id=""),
    lambda _: _with(model_id="x" * 257),
    lambda _: _with(features={"": 1}),
    lambda _: _with(features={f"f{place}": 1 for place in range(10_001)}),
    lambda _: _with(probabilities={"yes": 1.5}),
    lambda rng: _with(timestamp=rng.choice([-1, 1e300, 10**25, True, "yesterday", "2026-01-01T00:00:00", 4 * 10**14])),
    lambda rng: _with(timestamp=2_000_000_000_000 + rng.randrange(10**9)),
    lambda _: _with(features={"blob": "x" * 300_000}),
]


def malformed(seed: int) -> Iterator[bytes | None]:
    """Yield malformed values for ever, every maker in turn."""
    rng = random.Random(seed)
    while True:
        for make in MAKERS:
            yield make(rng)
