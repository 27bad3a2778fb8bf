"""The weight of a call: its tokens, and the tier of its model.

    weight = tier(model) * max(1, tokens / 1000), rounded to a whole weight

Before a call its tokens are those that `_runtime.token_averages` expects: the prompt as `request_size` estimates it,
corrected by the real size of earlier prompts, and the agent's mean answer from the model. Until the first of these
calls has ended the prompt counts alone. After a call they are those that the provider reports.
"""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType

from loco_otel.events import MILLI

_DEFAULT_TIER = 2
_TIER_PATTERNS = tuple(
    (re.compile(rf"(?<![a-z0-9])(?:{pattern})(?![a-z])"), tier)
    # The tiers are those of loco-agent 0.2.2's adapters, 1.5 rounded up. A later model has the tier of the model
    # that it replaced. The first match counts.
    for pattern, tier in (
        (r"embed(?:ding)?s?", 1),
        (r"opus", 5),
        (r"sonnet", 2),
        (r"haiku|claude-instant", 1),
        (r"gemini.*flash-lite|gemini-(?:1\.5|2\.0)-flash", 1),
        (r"gemini.*flash|gemini-1\.5-pro", 2),
        (r"gemini.*pro", 3),
        (r"nano|gpt-?4o-?mini|gpt-?3\.?5", 1),
        (r"mini", 2),
        (r"titan.*premier|nova-pro", 2),
        (r"titan|nova-(?:micro|lite)", 1),
        (r"llama.*-(?:70|90|405)b", 3),
        (r"pro|o\d", 5),
        (r"(?:chat)?gpt-?\d.*", 3),
    )
)


def estimate_weight(model: str | None, tokens: int, fixed: Mapping[str, float] = MappingProxyType({})) -> int:
    """Return the weight of a call in milli-weights: a whole weight of at least 1, unless it is fixed.

    Args:
        model: name from the request, with or without date, region and provider.
        tokens: of prompt and answer, expected or real.
        fixed: weights (not milli-weights) by model name or glob, which replace the estimate. An equal name
            precedes the globs, and the first glob that matches counts.

    """
    name = model or ""
    if fixed:
        key = name if name in fixed else next((glob for glob in fixed if fnmatchcase(name, glob)), None)
        if key is not None:
            return max(1, round(fixed[key] * MILLI))
    return (_find_tier(name) * max(1000, tokens) + 500) // 1000 * MILLI


@lru_cache(maxsize=1024)
def _find_tier(model: str) -> int:
    base = model.split(":")[1] if model.startswith("ft:") else model  # ft:gpt-4o-mini-2024-07-18:organization:name:id
    name = re.sub(r"[^a-z0-9.]+", "-", base.lower())
    return next((tier for pattern, tier in _TIER_PATTERNS if pattern.search(name)), _DEFAULT_TIER)
