"""The types that options and keys of params.yaml are made of."""

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from annotated_types import GroupedMetadata, Interval
from pydantic import AfterValidator, AllowInfNan, BaseModel, BeforeValidator, ConfigDict, Field

Item = TypeVar("Item")


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


class Finite(GroupedMetadata):
    """Marks a float as finite and not a boolean, within bounds: gt, ge, lt, le.

    The bounds come before the check for booleans. Only where no validator was put around a number
    yet does pydantic make a bound part of its type, hence `minimum` in the JSON schema. A bound
    that follows, as in `Annotated[Number, Field(ge=0)]`, holds but is in no schema.
    """

    def __init__(self, **bounds: float):
        self.bounds = bounds

    def __iter__(self) -> Iterator[Any]:
        yield from Interval(**self.bounds)
        yield AllowInfNan(False)
        yield BeforeValidator(_no_boolean)


Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, Finite()]
Fraction = Annotated[float, Finite(gt=0, le=1)]


def _once(values: list[Item]) -> list[Item]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"should name {value!r} once")
    return values


_unique: Any = {"uniqueItems": True}  # in the JSON schema
Distinct = Annotated[list[Item], Field(json_schema_extra=_unique), AfterValidator(_once)]
Several = Annotated[
    list[Item], Field(min_length=1, json_schema_extra=_unique), AfterValidator(_once)
]
Flag = Annotated[bool, Field(strict=True)]


class Section(BaseModel):
    """A mapping that knows all its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
