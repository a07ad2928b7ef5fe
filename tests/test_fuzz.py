"""Files from strangers: thousands of damaged ones, each refused in one line that names it, or read
as what it still is. `python tests/test_fuzz.py 100000` runs longer."""

import json
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers.images import stripes
from helpers.networks import pruned, random_keep, random_tensors, small_structure
from helpers.params import mutate
from helpers.synthetic import make_job, place, write_results

from st.config.layout import METRICS
from st.core.errors import StError
from st.core.registry import inits
from st.data.dataset import load_data, save_data
from st.networks.checkpoint import load_model, save_model
from st.networks.structure import load_structure, save_structure
from st.report import tables

NUMBERS = [0, 1, 127, 128, 255]
MEMORY = 200_000  # kB that reading a damaged file of some kB may take at most


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """With bits flipped, a part cut out, doubled, overwritten or from elsewhere in the file."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        # headers are where damage is most intricate
        limit = len(data) if rng.random() < 0.5 else min(len(data), 2000)
        start = int(rng.integers(limit))
        stop = min(len(data), start + int(rng.integers(1, 64)))
        kind = rng.integers(6)
        if kind == 0:
            data[start] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[start] = NUMBERS[rng.integers(len(NUMBERS))]
        elif kind == 2:
            del data[start:stop]
        elif kind == 3:
            data[start:start] = data[start:stop]
        elif kind == 4:
            data[start:stop] = rng.bytes(stop - start)
        else:
            data = data[:start]
    return bytes(data)


def rewritten(content: bytes, rng: np.random.Generator) -> bytes:
    """A safetensors file whose header is well-formed JSON that says something else."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if rng.random() < 0.5:
        header = mutate(header, rng)
    else:
        inner = mutate(json.loads(header["__metadata__"]["st"]), rng)
        header["__metadata__"]["st"] = json.dumps(inner)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    return json.dumps(mutate(json.loads(content), rng)).encode()


class Files:
    """Good files of each kind, readers that check what they read, and ways to damage."""

    def __init__(self, folder: Path):
        rng = np.random.default_rng(0)
        full = small_structure("densenet")
        part = pruned(full, random_keep(full, rng))
        self.job = make_job()
        write_results(folder / "results", self.job)
        self.results = folder / "results"
        metrics = place(METRICS, self.results, method="st", seed=1)
        history = place(self.job["rows"]["net"][2]["history"], self.results, seed=1)
        save_model(folder / "model", part, random_tensors(part, rng), epochs=3)
        save_data(folder / "data", stripes(), {})
        save_structure(folder / "structure", part, params_kept=0.5)
        self.kinds = {
            "model": (folder / "model", self.model, (damaged, rewritten)),
            "data": (folder / "data", self.data, (damaged, rewritten)),
            "structure": (folder / "structure", self.structure, (damaged, mutated)),
            "metrics": (metrics, self.metrics, (damaged, mutated)),
            "history": (history, self.history, (damaged,)),
        }

    @staticmethod
    def model(path: Path):
        found = load_model(path)
        return found.digest(), found.facts

    @staticmethod
    def data(path: Path):
        data, digest = load_data(path)
        return digest, data.classes, data.train_images.tobytes()

    @staticmethod
    def structure(path: Path) -> None:
        structure = load_structure(path)
        assert structure.cost()[0] <= 10**9
        if structure.cost()[0] < 10**6:
            inits.get("random")(structure, None, 0)

    def metrics(self, path: Path) -> None:
        table = tables.aggregate(tables.collect(self.job, self.results))
        tables.to_csv(table), tables.to_markdown(table, ""), tables.to_latex(table, "")
        tables.environment(self.job, self.results)

    def history(self, path: Path) -> None:
        tables.curves(self.job, self.results)


def fuzz(folder: Path, number: int, seed: int = 0) -> Counter:
    """Damage each kind of file `number` times; how many were refused, and how many read."""
    rng, told, files = np.random.default_rng(seed), Counter(), Files(folder)
    for kind, (path, read, ways) in files.kinds.items():
        good = path.read_bytes()
        expected = read(path)
        before = set(folder.rglob("*"))
        for _ in range(number):
            content = ways[rng.integers(len(ways))](good, rng)
            path.write_bytes(content)
            try:
                found = read(path)
            except StError as error:
                told[kind, "refused"] += 1
                message = str(error)
                assert message.startswith(f"{path}: ") and "\n" not in message, message
                assert len(message) < len(str(path)) + 700, message
            else:
                told[kind, "read"] += 1
                # models and data are read only as what they are
                assert found == expected
        path.write_bytes(good)
        assert set(folder.rglob("*")) == before
    return told


@pytest.mark.slow
def test_damaged_files(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    told = fuzz(tmp_path, 80)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
    for kind in ("model", "data", "structure", "metrics", "history"):
        assert told[kind, "refused"] > 20


def test_no_pickle_is_read(tmp_path):
    """A file that would run code if it were unpickled: as a model, data, structure, metrics."""
    import pickle

    import torch

    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    files = Files(tmp_path)
    torch.save({"weight": Attack()}, tmp_path / "torch")
    for content in (pickle.dumps(Attack()), (tmp_path / "torch").read_bytes()):
        for path, read, _ in files.kinds.values():
            good = path.read_bytes()
            path.write_bytes(content)
            with pytest.raises(StError, match="is "):
                read(path)
            path.write_bytes(good)
    assert not (tmp_path / "ran").exists()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        counts = fuzz(Path(name), int(sys.argv[1]), seed=int(sys.argv[2]) if sys.argv[2:] else 1)
        print(*(f"{' '.join(key)}: {value:,}" for key, value in sorted(counts.items())), sep="\n")
