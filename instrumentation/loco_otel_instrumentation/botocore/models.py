"""The names of models on Bedrock: the id of a model or of an inference profile, or an ARN."""

import re

_ARN = re.compile(r"arn:[^:]*:[^:]*:[^:]*:[^:]*:(?P<resource>.+)")
_MODEL_RESOURCES = ("foundation-model/", "inference-profile/")
"""Resources that are named by the id of a model."""

_GEOGRAPHIES = frozenset({"us", "us-gov", "eu", "apac", "ap", "au", "ca", "jp", "sa", "me", "af", "global"})
"""Prefixes of inference profiles, by where their requests are processed."""


def shorten_model_id(model_id: str) -> str:
    """Return a model's name without the account and the region that an ARN contains.

    Example:
        >>> shorten_model_id("arn:aws:bedrock:eu-west-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0")
        'anthropic.claude-3-haiku-20240307-v1:0'
        >>> shorten_model_id("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3")
        'application-inference-profile/a1b2c3'

    """
    found = _ARN.fullmatch(model_id)
    if found is None:
        return model_id
    resource = found["resource"]
    prefix = next((prefix for prefix in _MODEL_RESOURCES if resource.startswith(prefix)), "")
    return resource.removeprefix(prefix)


def find_family(model_id: str) -> str | None:
    """Return the family of models whose bodies are alike; None if the name does not contain it.

    Example:
        >>> find_family("us.anthropic.claude-sonnet-4-20250514-v1:0")
        'anthropic'
        >>> find_family("amazon.nova-lite-v1:0"), find_family("amazon.titan-text-express-v1")
        ('amazon.nova', 'amazon.titan-text')

    """
    parts = shorten_model_id(model_id).split(".")
    if parts[0] in _GEOGRAPHIES:
        parts = parts[1:]
    vendor, *rest = parts
    if not rest or "/" in vendor:
        return None
    words = rest[0].split("-")
    if vendor == "amazon":
        vendor = f"{vendor}.{'-'.join(words[: 2 if words[0] == 'titan' else 1])}"
    return f"{vendor}.embed" if "embed" in words else vendor
