"""How a series is called: nothing for a whole model, or a segment and one of its values; and as one number."""

Key = tuple[int, int]
"""Place of a segment among the declared ones, and id of its value."""

ARCHIVED = -1
"""Key of predictions whose pane is gone already."""


def series_code(key: Key | None, segments: int) -> int:
    """Return a series as one number: 0 is the whole model."""
    return 0 if key is None else 1 + key[0] + segments * key[1]


def series_key(code: int, segments: int) -> Key | None:
    """Undo `series_code`."""
    if code == 0:
        return None
    value_id, place = divmod(code - 1, segments)
    return place, value_id
