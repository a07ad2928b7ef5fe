"""Search-and-Train: compress a trained CNN by searching its structure and training that anew.

The public API is `__all__`; what else the package holds may change. `import st` is light: torch is
imported by what needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st.api.dataset import dataset
    from st.api.networks import prune, save, supernet
    from st.api.search import search
    from st.api.train import evaluate, train
    from st.core.errors import StError
    from st.core.registry import architectures, criteria, inits, losses
    from st.data.dataset import Data
    from st.deploy.export import export
    from st.deploy.model import Model, Prediction, load
    from st.networks.structure import Structure

__version__ = "0.1.0"
__all__ = [
    "Data",
    "Model",
    "Prediction",
    "StError",
    "Structure",
    "__version__",
    "architectures",
    "criteria",
    "dataset",
    "evaluate",
    "export",
    "inits",
    "load",
    "losses",
    "prune",
    "save",
    "search",
    "supernet",
    "train",
]

_PLACES = {
    "st.api.dataset": ("dataset",),
    "st.api.networks": ("prune", "save", "supernet"),
    "st.api.search": ("search",),
    "st.api.train": ("evaluate", "train"),
    "st.core.errors": ("StError",),
    "st.core.registry": ("architectures", "criteria", "inits", "losses"),
    "st.data.dataset": ("Data",),
    "st.deploy.export": ("export",),
    "st.deploy.model": ("Model", "Prediction", "load"),
    "st.networks.structure": ("Structure",),
}


def __getattr__(name: str) -> Any:
    for module, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'st' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
