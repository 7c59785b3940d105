"""Cuts a dead letter that is too large for its topic and says so: better a part of it than a stopped partition."""

from worker.core.events import Output

TRUNCATED_HEADER = "modelvigil.truncated"
"""Says what was cut and how long it was: `value=5000000 key=800000 headers=3`."""

_OVERHEAD_BYTES = 1_024
"""More than what a record, its batch and our own header add to the bytes of a record."""
_OWN_HEADERS = "modelvigil."


def size_of(output: Output) -> int:
    """Return the bytes that the record's content takes."""
    return len(output.value or b"") + len(output.key or b"") + _headers_size(output.headers)


def truncated(output: Output, limit_bytes: int) -> Output:
    """Cut a record so that it fits into `limit_bytes`: foreign headers first, then the key, then the value."""
    budget = max(0, limit_bytes - _OVERHEAD_BYTES)
    cuts: list[str] = []
    headers, key, value = output.headers, output.key, output.value
    if _headers_size(headers) > budget // 4:
        cuts.append(f"headers={len(headers)}")
        # Ours say where the record comes from and why it was refused: they are short, and needed.
        headers = tuple(header for header in headers if header[0].startswith(_OWN_HEADERS))
    budget -= _headers_size(headers)
    if key is not None and len(key) > budget // 4:
        cuts.append(f"key={len(key)}")
        key = key[: budget // 4]
    budget -= len(key or b"")
    if value is not None and len(value) > budget:
        cuts.append(f"value={len(value)}")
        value = value[:budget]
    mark = (TRUNCATED_HEADER, " ".join(sorted(cuts, reverse=True)).encode())
    return output._replace(key=key, value=value, headers=(*headers, mark))


def _headers_size(headers: tuple[tuple[str, bytes | None], ...]) -> int:
    return sum(len(name.encode()) + len(value or b"") for name, value in headers)
