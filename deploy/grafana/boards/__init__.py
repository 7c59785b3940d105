"""The dashboards for Grafana, as code: `python -m deploy.grafana.boards` writes them into deploy/grafana/dashboards."""
