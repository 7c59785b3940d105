"""The server on a real Kafka: python -m examples.server --help."""

import argparse
from pathlib import Path

import uvicorn

from examples.server.app import create_app
from examples.server.champion import TrainedModel
from examples.server.kafka import MaintenanceReader, Publisher
from examples.server.maintenance import POLICIES, Maintenance


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.server", description="A model server that takes advice.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--kafka", default="127.0.0.1:9092", help="bootstrap servers")
    parser.add_argument("--topic-prefix", default="", help="before `predictions` and `labels`")
    parser.add_argument("--maintenance-topic", default="modelvigil.maintenance")
    parser.add_argument("--models", default="modelvigil-artefacts", help="the worker's [artefacts] url")
    parser.add_argument("--memory", type=Path, default=Path("server-memory.json"), help="what is in service")
    parser.add_argument("--follow", choices=POLICIES, default="proven", help="which advice is taken; see the README")
    return parser.parse_args()


def main() -> None:
    """Run until a signal comes."""
    given = _given()
    client = {"bootstrap.servers": given.kafka}
    maintenance = Maintenance(TrainedModel(), given.models, given.memory, follow=given.follow)
    reader = MaintenanceReader(client, given.maintenance_topic, maintenance)
    app = create_app(maintenance, Publisher(client), reader, given.topic_prefix)
    uvicorn.run(app, host=given.host, port=given.port, access_log=False)


if __name__ == "__main__":
    main()
