"""Names and checksums of stored models: known before anybody has written them. The records are in `events`."""

import re
from hashlib import sha256

from worker.core.identity import derived_id

_SLUG_CHARS_MAX = 40
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def checksum(model: bytes) -> str:
    """Return the SHA-256 of a model, hexadecimal."""
    return sha256(model).hexdigest()


def model_folder(model_id: str) -> str:
    """Return the folder of a model: a readable part of its id, and a hash, because ids differ in more than that."""
    slug = _UNSAFE.sub("-", model_id)[:_SLUG_CHARS_MAX].strip(".-") or "model"
    return f"{slug}-{derived_id('artefacts', model_id)[:8]}"


def model_path(model_id: str, digest: str) -> str:
    """Return where a model lies below the root of the store: known before anybody has written it."""
    return f"{model_folder(model_id)}/{digest}.onnx"


def manifest_path(path: str) -> str:
    """Return where the manifest of the model at `path` lies."""
    return path.removesuffix(".onnx") + ".json"
