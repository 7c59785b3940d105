"""A real single-node Elasticsearch on this machine, from its published test distribution.

It is but a skeleton: bulk requests, mappings, templates, data streams, rollovers and searches are there. `GET /`, ILM,
the processors of pipelines and the interface that creates data streams are not. So it can tell whether our mappings
take our documents, and not whether the shipper works; that one is tested with OpenSearch.
"""

from pathlib import Path
from typing import ClassVar, Final

from tests.integrations.opensearch import Distribution, OpenSearch, launcher

ELASTICSEARCH: Final = Distribution(
    "elasticsearch",
    "9.1.0",
    "be5c5440bb6344cee4070f8f77a6c3cd72363db494944047cdd93748c4e19111",
    frozenset({"apm", "transport-netty4", "x-pack-core", "x-pack-security"}),
)


class Elasticsearch(OpenSearch):
    """One local server without security."""

    distribution: ClassVar = ELASTICSEARCH

    def _configure(self) -> None:
        self._settings |= {"xpack.security.enabled": "false"}
        super()._configure()

    def _extra_files(self) -> dict[str, str]:
        # Without a temporary folder of its own it would use the one of all, and refuse to: its modules may lie there.
        return {"jvm.options": "-Djava.io.tmpdir=${ES_TMPDIR}\n"}

    def _command(self, home: Path) -> list[str]:
        directory = self._log_path.parent
        variables = {
            "ES_JAVA_HOME": str(launcher().parent.parent),
            "ES_PATH_CONF": str(directory / "config"),
            "ES_JAVA_OPTS": " ".join((*self._jvm_options, "-XX:+UseSerialGC")),
            "ES_TMPDIR": str(directory / "temporary"),
        }
        assignments = [f"{name}={value}" for name, value in variables.items()]
        # Its launcher starts the server and ends with it; a server whose launcher is gone ends as well.
        return ["/usr/bin/env", *assignments, "/bin/bash", str(home / "bin" / "elasticsearch")]
