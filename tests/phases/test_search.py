"""Search: what structure.json says beside the structure."""

import json

import numpy as np
from helpers.networks import random_tensors

from st.networks.checkpoint import save_model
from st.networks.structure import Structure, load_structure
from st.phases import search


def test_layers_that_are_kept_whole_are_listed(tmp_path):
    """A layer of 5 channels can't have a multiple of 8; one of 32 can."""
    full = Structure("vgg", {"layers": [5, "M", 32, "M", 32]}, (1, 8, 8), 3)
    save_model(tmp_path / "model", full, random_tensors(full, np.random.default_rng(0)))
    job = {
        "seed": 0, "criterion": "bn_scale", "options": {}, "ranking": "global", "min_channels": 1,
        "latency": None, "lottery": None,
        "budget": {"params": 0.5, "macs": None, "channels": None, "latency": None},
    }  # fmt: skip
    found = {}
    for multiple in (1, 8):
        path = tmp_path / f"{multiple}.json"
        search.run({**job, "round_to": multiple}, tmp_path / "model", path)
        found[multiple] = json.loads(path.read_text())["not_rounded"]
        assert load_structure(path).widths["conv1"] <= 5
    assert found == {1: {}, 8: {"conv1": 5}}
