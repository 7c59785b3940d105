"""What a process serves to operators over HTTP: the table `[ops]`."""

from typing import Annotated

from msgspec import Meta, Struct

PORT = 9464
"""Where metrics are by default, if the port is free."""


class OpsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where `/metrics`, `/healthz` and `/readyz` are, and how many series there may be."""

    listen: str = "127.0.0.1"
    """The address to bind to. Whoever reaches it can read model ids and figures: nothing asks for a password."""
    port: Annotated[int, Meta(ge=-1, le=65_535)] = -1
    """-1: 9464 if it is free, else none, and the log says so. 0: none. Any other must be free."""
    socket: str = ""
    """A Unix socket to serve at instead of the port."""
    models_max: Annotated[int, Meta(ge=0, le=100_000)] = 100
    """Models with series of their own; what is counted of the others is under the name `other`."""
    features_max: Annotated[int, Meta(ge=0, le=10_000)] = 20
    """Features of a model with series of their own."""
