"""What the dashboards look like as files."""

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.boards.fleet import fleet
from deploy.grafana.boards.one_model import one_model
from deploy.grafana.boards.one_worker import one_worker


def rendered() -> dict[str, str]:
    """Return all dashboards as JSON, by the names of their files. Panels are numbered in their order."""
    files = {}
    for name, made in (("fleet.json", fleet()), ("model.json", one_model()), ("worker.json", one_worker())):
        built = made.build()
        for number, panel in enumerate(built.panels or [], start=1):
            panel.id_val = number
        files[name] = json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return files
