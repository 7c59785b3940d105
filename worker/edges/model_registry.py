"""Registers published models in MLflow, beside the store: the extra `modelvigil[mlflow]`.

A registration is no part of the exactly-once chain: it follows a put into the store, may be repeated after a crash, and
finds what it has already registered by its checksum. The model stays in the store; MLflow holds its address, manifest
and version.
"""

from typing import Any

import msgspec

from worker.core.events import Manifest

_CHECKSUM_TAG = "modelvigil.sha256"


class RegistryError(Exception):
    """A model could not be registered; the message says why. Nothing is lost: it lies in the store."""


class MlflowRegistry:
    """Registers models under their id. Raises RegistryError from everything."""

    def __init__(self, tracking_uri: str) -> None:
        """Connect to a tracking server (`http://...`), or to a database (`sqlite:///...`)."""
        try:
            from mlflow import MlflowClient  # noqa: PLC0415 - an extra of 40 packages, seconds to load
        except ImportError as error:
            raise RegistryError("MLflow is not installed: pip install 'modelvigil[mlflow]'") from error
        self._client: Any = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)

    def register(self, manifest: Manifest, uri: str) -> str:
        """Register the model at `uri` as a version of its id, once; return MLflow's number of that version."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - as above

        try:
            return self._version_of(manifest) or self._add(manifest, uri)
        except MlflowException as error:
            raise RegistryError(f"MLflow did not register {manifest.model_id}: {error}") from error

    def _version_of(self, manifest: Manifest) -> str | None:
        """Return the version that holds these bytes; also see to it that the model's name exists."""
        name = _name(manifest)
        if not self._client.search_registered_models(filter_string=f"name = '{name}'"):
            self._client.create_registered_model(name)
        for version in self._client.search_model_versions(f"name = '{name}'"):
            if version.tags.get(_CHECKSUM_TAG) == manifest.sha256:
                return str(version.version)
        return None

    def _add(self, manifest: Manifest, uri: str) -> str:
        tags = {
            _CHECKSUM_TAG: manifest.sha256,
            "modelvigil.version": manifest.version,
            "modelvigil.candidate": manifest.candidate,
            "modelvigil.manifest": msgspec.json.encode(manifest).decode()[:_TAG_CHARS_MAX],
        }
        version = self._client.create_model_version(_name(manifest), source=uri, tags=tags)
        return str(version.version)


_TAG_CHARS_MAX = 5_000
"""MLflow's own limit; the whole manifest lies beside the model."""


def _name(manifest: Manifest) -> str:
    """Return the model's id without what MLflow forbids in names, or would end a quotation."""
    return manifest.model_id.translate(str.maketrans("/:'\"", "----"))
