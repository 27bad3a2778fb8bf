"""Which tests need the frameworks that require older SDKs."""

from sdk_versions import PAIR

collect_ignore = [] if PAIR == "agents_old" else ["test_demo_act.py"]
