"""Writes the dashboards: `python -m deploy.grafana.boards`."""

from pathlib import Path

from deploy.grafana.boards.files import rendered

FOLDER = Path(__file__).resolve().parent.parent / "dashboards"

for name, text in rendered().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
