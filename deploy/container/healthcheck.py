"""HEALTHCHECK of the container image: exit code 0 if the page that is named answers 200, else 1.

The image has no curl, and urllib would ask a proxy of the environment.
"""

# ruff: noqa: INP001 - a script of the image, no part of a package

import os
import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 3.0


def main(path: str = "/healthz", port: str = "") -> int:
    """Ask for the page on this machine; the port is that of the environment unless one is named."""
    connection = HTTPConnection("127.0.0.1", int(port or os.environ.get("MODELVIGIL_OPS_PORT", "9464")), TIMEOUT_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException):
        return 1
    finally:
        connection.close()
    return 0 if status == 200 else 1  # noqa: PLR2004 - the code of HTTP


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
