"""Builds the Grafana dashboards and the Prometheus rules from the metric catalogue: `python -m dashboards.builder`.

A build-time program: the wheel contains its output, `dashboards/*.json` and `dashboards/alerts/loco.rules.yml`.
"""
