"""Types of options."""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(gt=0.0, lt=1.0)]
