"""What `loco-otel doctor` finds out about an environment, as one plain value, and how that is shown."""

from loco_otel.cli.doctor.examination import examine, versions
from loco_otel.cli.doctor.text import show

__all__ = ["examine", "show", "versions"]
