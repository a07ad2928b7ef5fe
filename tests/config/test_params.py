"""params.yaml: good files load, and mean what they say."""

import json

import pytest
import yaml
from helpers.project import ROOT

from st.config.check import load, parse
from st.config.params import objective, recipe, schema

SHIPPED = [ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_files_are_good(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    params = load(path)
    assert params.methods
    # printing it completed and reading that again changes nothing
    assert parse(yaml.safe_load(yaml.safe_dump(params.model_dump()))) == params


def test_the_schema_is_up_to_date():
    stored = json.loads((ROOT / "workflow/schemas/params.schema.json").read_text())
    assert stored == json.loads(json.dumps(schema())), (
        "run: st schema > workflow/schemas/params.schema.json"
    )


def described(node, definitions, name="params"):
    """Names of keys that have no description, neither their own nor their section's."""
    for key, value in node.get("properties", {}).items():
        target = value.get("$ref", "").rpartition("/")[2]
        if not value.get("description") and not definitions.get(target, {}).get("description"):
            yield f"{name}.{key}"


def test_every_key_has_a_description():
    known = schema()
    parts = {"params": known, **known["$defs"]}
    missing = [key for n, part in parts.items() for key in described(part, known["$defs"], n)]
    own = {"params.seeds", "params.datasets", "params.architectures"}  # their sections say it
    assert set(missing) <= own


def test_numbers_in_all_spellings(tiny, tmp_path):
    """YAML 1.1 takes 1e-4 for a string."""
    text = yaml.safe_dump(tiny)
    for spelling in ("1e-4", "1.0e-4", "0.0001", "1E-4", "'1e-4'", ".0001"):
        path = tmp_path / "params.yaml"
        path.write_text(text + f"\nxs: {spelling}\n")
        value = yaml.safe_load(path.read_text())["xs"]
        data = {
            **tiny,
            "training": {
                **tiny["training"],
                "weight_decay": value,
                "milestones": [value],
                "schedule": "step",
            },
            "methods": {
                "m": {"search": "slimming", "objective": {"ce": value}},
                "n": {
                    "search": "slimming",
                    "objective": {"ce": 1, "kd": {"weight": value, "temperature": value}},
                    "training": {"lr": value},
                },
            },
        }
        data["architectures"]["vgg"]["sparsity"] = value
        data["architectures"]["vgg"]["options"]["width"] = 1
        params = parse(data)
        method = params.methods["n"]
        assert params.training.weight_decay == params.training.milestones[0] == 1e-4
        assert objective(params.methods["m"].objective) == {"ce": {"weight": 1e-4}}
        assert objective(method.objective)["kd"] == {"weight": 1e-4, "temperature": 1e-4}
        assert params.architectures["vgg"].sparsity == 1e-4
        assert recipe(params, params.architectures["vgg"], method).lr == 1e-4


def test_recipes_are_changed_by_architecture_then_by_method(tiny):
    tiny["training"] = {"lr": 0.3, "epochs": 7, "momentum": 0.5}
    tiny["architectures"]["vgg"]["training"] = {"lr": 0.2, "batch_size": 9, "nesterov": True}
    tiny["methods"]["st"]["training"] = {"lr": 0.1, "nesterov": False}
    params = parse(tiny)
    found = recipe(params, params.architectures["vgg"], params.methods["st"])
    assert (found.lr, found.epochs, found.momentum) == (0.1, 7, 0.5)
    assert (found.batch_size, found.nesterov) == (9, False)
    found = recipe(params, params.architectures["vgg"], params.supernets["sparse"])
    assert (found.lr, found.nesterov) == (0.2, True)
