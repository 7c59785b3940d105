"""What makes stored arrays alike: who refuses one of them refuses the others, too, and each form is tried once."""

import re
from typing import NamedTuple

from worker.core.state import AnyArray


class Form(NamedTuple):
    """Of an array: its name without the numbers of segments and the like, its type, and how it is laid out."""

    kind: str
    dtype: str
    dimensions: int
    is_empty: bool


def form(name: str, array: AnyArray) -> Form:
    """Return the form of a stored array."""
    return Form(re.sub(r"[0-9]+", "#", name), array.dtype.str, array.ndim, array.size == 0)
