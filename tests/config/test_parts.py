"""Options of everything that is registered: as strictly read as params.yaml's own keys."""

import pytest

from st.config.options import PLACES
from st.core.errors import StError

NUMBERS = ("number", "integer")
OPTIONS = [
    (known, name, option, told)
    for _, known in PLACES
    for name in known.names()
    for option, told in known.schema(name)["properties"].items()
]


def required(known, name: str) -> dict:
    """What an entry can't do without."""
    values = {"string": "x", "array": [1], "integer": 1}
    found = known.schema(name)
    return {
        option: values[found["properties"][option]["type"]] for option in found.get("required", ())
    }


@pytest.mark.parametrize(
    "known, name, option, told", OPTIONS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_switch_is_no_number_and_a_number_no_switch(known, name, option, told):
    kinds = {told.get("type"), *(part.get("type") for part in told.get("anyOf", ()))}
    wrong: list = [True] if kinds & set(NUMBERS) and "boolean" not in kinds else []
    wrong += [1, "no"] if "boolean" in kinds else []
    wrong += [float("nan"), float("inf")] if "number" in kinds else []
    for value in wrong:
        with pytest.raises(StError, match=f"option '{option}'"):
            known.check(name, {**required(known, name), option: value})
