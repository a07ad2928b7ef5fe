"""The schema file refuses what the loader refuses for type or range, and takes what it takes."""

import copy
import json
import math

import jsonschema
import pytest
import yaml
from helpers.project import ROOT
from pydantic import ValidationError

from st.config.params import Params, objective
from st.core.errors import StError

FILE = ROOT / "workflow/schemas/params.schema.json"
SCHEMA = json.loads(FILE.read_text())
SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))]
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

# wrong for most keys, each in another way; NaN is no JSON, and no keyword can refuse it
VALUES = [
    *(None, True, False, "", "a b", "fast", "-1", "nan", "ce", "step", "same"),
    *(-1, 0, 1, 2, 0.5, 1.5, -0.5, 1e300, 10**400, -(10**400), math.inf, -math.inf),
    *([], [None], [True], ["x"], ["a b"], [1], [1, 1], [-1], [0.5], [1.5], [[]], [{}]),
    *({}, {"x": None}, {"x": True}, {"x": 1}, {"x": "y"}, {"x": {}}, {"x": []}, {"a b": {}}),
]
LOSSES = [
    *({"ce": -1}, {"ce": 0.5}, {"ce": True}, {"ce": "much"}, {"ce": math.inf}, {"ce": 10**400}),
    *({"ce": {}}, {"ce": {"weight": 1}}, {"ce": {"weight": -1}}, {"ce": {"weight": True}}),
    *({"ce": {"weight": "x"}}, {"ce": {"weight": None}}, {"ce": {"weight": math.inf}}),
]
NAMED = [{name: {"search": "slimming"}} for name in ("a.b_c-1", ".a", "-a", "a/b", "é", "")]

# a method without a loss, a seed that is a duplicate: the loader refuses them, but not for a type
LATER = ({}, [1, 1])


def branches(node: dict) -> list[dict]:
    """A node of the schema without references and alternatives."""
    if "$ref" in node:
        return branches(SCHEMA["$defs"][node["$ref"].rpartition("/")[2]])
    return [b for part in node.get("anyOf", []) for b in branches(part)] or [node]


def keys(node: dict = SCHEMA, path: tuple = ()):
    """(path, its node) of every key in the schema; a name of one's own is '*'."""
    for branch in branches(node):
        inner = dict(branch.get("properties", {}))
        if "propertyNames" in branch:
            inner["*"] = branch["additionalProperties"]
        for key, child in inner.items():
            yield (*path, key), child
            yield from keys(child, (*path, key))


KEYS = dict(keys())


def edges(node: dict) -> list:
    """Values at, just inside and just outside each bound; of a list's items, in lists."""
    found = []
    for branch in branches(node):
        found += [[edge] for edge in edges(branch["items"])] if "items" in branch else []
        for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
            if word in branch:
                bound = branch[word]
                near = [math.nextafter(bound, math.inf), math.nextafter(bound, -math.inf)]
                found += [bound, bound + 1, bound - 1, *near]
    return found


@pytest.fixture
def full(tiny) -> dict:
    """A good file in which every key is written down."""
    del tiny["methods"]["lottery"]
    tiny["claims"] = {"st": ["supernet"]}
    tiny["resources"] = {"gpu_percent": {"vgg": 50}}
    tiny["exports"] = {"st": {}}
    tiny["datasets"]["digits"]["augment"] = {"resized_crop": {}}
    tiny["datasets"]["digits"]["normalisation"] = {"mean": [0.3], "std": [0.4]}
    return Params.model_validate(tiny).model_dump()


def place(data: dict, path: tuple) -> dict:
    """The mapping at a path; '*' is its first entry."""
    for key in path:
        data = data[next(iter(data)) if key == "*" else key]
    return data


def changed(data: dict, path: tuple, value) -> dict:
    data = copy.deepcopy(data)
    inner = place(data, path[:-1])
    inner[next(iter(inner)) if path[-1] == "*" else path[-1]] = value
    return data


def complaint(data: dict) -> str:
    """What the loader says of types and ranges in the data; '' if that is nothing."""
    try:
        params = Params.model_validate(data)
        for method in params.methods.values():
            objective(method.objective)
    except ValidationError as error:
        return str(error)
    except StError as error:
        return str(error) if "'weight'" in str(error) else ""
    return ""


def whole(value) -> bool:
    """Whether a float is a whole number: the loader requires 2 and refuses 2.0, which is the same
    number in JSON."""
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, float) and item.is_integer() for item in items)


def spelt(value) -> bool:
    """Whether a value holds strings: the loader takes '1e-4' for a number, as YAML 1.1 must."""
    return isinstance(value, str) or (isinstance(value, list) and any(map(spelt, value)))


@pytest.mark.slow
def test_the_schema_refuses_what_the_loader_refuses(full):
    for path, node in KEYS.items():
        refused = 0
        more = {"objective": LOSSES, "methods": NAMED}.get(path[-1], [])
        for value in [*VALUES, *edges(node), *more]:
            data, case = changed(full, path, value), f"{'.'.join(path)}: {value!r}"
            said, valid = complaint(data), VALIDATOR.is_valid(data)
            if said:
                refused += 1
                assert not valid or whole(value), f"{case} is valid, but refused: {said}"
            elif not spelt(value) and value not in LATER:
                error = jsonschema.exceptions.best_match(VALIDATOR.iter_errors(data))
                assert valid, f"{case} is good, but refused: {error}"
        assert refused > 5, path


def test_every_bound_is_tried():
    """So that the test above is not empty: it finds the keys and their bounds."""
    assert len(KEYS) > 90
    assert ("methods", "*", "objective") in KEYS and ("training", "milestones") in KEYS
    assert sum(bool(edges(node)) for node in KEYS.values()) > 50


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_valid(path):
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


def test_missing_and_unknown_keys(full):
    for path, node in {(): SCHEMA, **KEYS}.items():
        for branch in branches(node):
            for key in branch.get("required", []):
                if key == "weight":
                    continue  # of a loss; the values above try it
                data = copy.deepcopy(full)
                del place(data, path)[key]
                assert "missing" in complaint(data) and not VALIDATOR.is_valid(data)
            if branch.get("additionalProperties") is False:
                data = changed(full, (*path, "unheard_of"), 1)
                assert "not permitted" in complaint(data) and not VALIDATOR.is_valid(data)


def words(node):
    """The keywords of a schema, without the names of its properties and its defaults."""
    for key, value in node.items():
        yield key
        if key in ("$defs", "properties"):
            for child in value.values():
                yield from words(child)
        elif key in ("anyOf", "items", "additionalProperties", "propertyNames"):
            for child in value if isinstance(value, list) else [value]:
                yield from words(child) if isinstance(child, dict) else ()


def test_every_keyword_is_one_of_json_schema():
    """Validators ignore what they do not know, such as pydantic's `ge`."""
    VALIDATOR.check_schema(SCHEMA)
    known = {"$schema", "$defs", "$ref", *VALIDATOR.VALIDATORS, "default", "description", "title"}
    assert set(words(SCHEMA)) <= known
