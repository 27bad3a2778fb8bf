"""How a class of urgency is served, as the settings file states it: `[priority.NAME]`."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from loco_otel._config.validators import MAX_NUMBER, convert_to_lower, reject_bool


def _parse_ceiling(value: object) -> object:
    """Return a percentage as a fraction, and the word `none` as 1.0: all slots.

    Raises:
        ValueError: the text is neither.

    """
    if not isinstance(value, str):
        return value
    if convert_to_lower(value) == "none":
        return 1.0
    if not value.endswith("%") or not 0 < float(value[:-1]) <= 100:  # noqa: PLR2004 - percent
        raise ValueError("it is no percentage")
    return float(value[:-1]) / 100


class PriorityTable(BaseModel):
    """One class. What is left out keeps its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: Annotated[float, BeforeValidator(reject_bool), Field(ge=0.001, le=1000)] | None = None
    """Among the classes that are not strict."""
    ceiling: (
        Annotated[
            Annotated[int, Field(strict=True, ge=1, le=MAX_NUMBER)] | Annotated[float, Field(strict=True, gt=0, le=1)],
            BeforeValidator(_parse_ceiling),
        ]
        | None
    ) = None
    """The most slots of a resource: an integer, or a float as a part of all slots."""
    strict: bool = False
    """Whether it comes before all classes that are less urgent or not strict."""
