"""What `loco-otel doctor` finds out about an environment, as one plain value, and how that is shown."""

from loco_otel._doctor.examination import examine, versions
from loco_otel._doctor.text import show

__all__ = ["examine", "show", "versions"]
