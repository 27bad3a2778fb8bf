"""What `loco-otel doctor` finds out about an environment, as one plain value, and how that is shown."""

from loco_otel.cli.doctor.examination import collect_versions, examine_environment
from loco_otel.cli.doctor.text import print_report

__all__ = ["collect_versions", "examine_environment", "print_report"]
