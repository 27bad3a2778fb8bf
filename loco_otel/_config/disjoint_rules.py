"""Whether one call can match two rules of `[[resources]]`, as far as their globs state."""

from collections.abc import Iterable, Iterator
from itertools import combinations

from loco_otel._config.resource_rules import ResourceRule

_ANY, _ONE = "*", "?"


def list_overlaps(rules: Iterable[ResourceRule]) -> Iterator[tuple[str, str]]:
    """Yield the names of each two resources that one call can need.

    Example:
        >>> rules = [ResourceRule(name="a", model="gpt-*"), ResourceRule(name="b", host="*.internal")]
        >>> list(list_overlaps(rules))
        [('a', 'b')]

    """
    for one, two in combinations(rules, 2):
        if _can_both_match(one, two):
            yield one.name, two.name


def do_globs_overlap(one: str, two: str) -> bool:
    """Return whether one text can match both globs. A set in brackets counts as any character.

    Example:
        >>> do_globs_overlap("gpt-4*", "*-mini"), do_globs_overlap("gpt-4*", "gpt-5*")
        (True, False)

    """
    first, second = _split_glob(one), _split_glob(two)
    following: list[bool] = []
    for i in range(len(first), -1, -1):
        row = [False] * (len(second) + 1)
        for j in range(len(second), -1, -1):
            left, right = first[i : i + 1], second[j : j + 1]
            if not left and not right:
                row[j] = True
            elif left == [_ANY] or right == [_ANY]:
                # It matches nothing, or what the other glob states next.
                row[j] = (bool(left) and following[j]) or (bool(right) and row[j + 1])
            elif left and right:
                row[j] = following[j + 1] and (left == right or [_ONE] in (left, right))
        following = row
    return following[0]


def _can_both_match(one: ResourceRule, two: ResourceRule) -> bool:
    """Return whether one call can need both. Rules without conditions match no call."""
    pairs = ((one.provider, two.provider), (one.model, two.model), (one.host, two.host))
    if any(all(pair[side] is None for pair in pairs) for side in (0, 1)):
        return False
    return all(first is None or second is None or do_globs_overlap(first, second) for first, second in pairs)


def _split_glob(glob: str) -> list[str]:
    """Return its parts: `*`, `?` or a character."""
    parts: list[str] = []
    at = 0
    while at < len(glob):
        # A bracket that comes first in a set is one of its characters.
        first = at + (3 if glob.startswith("[!", at) else 2)
        end = glob.find("]", first) if glob[at] == "[" else -1
        parts.append(_ONE if end >= 0 else glob[at])
        at = end + 1 if end >= 0 else at + 1
    return parts
