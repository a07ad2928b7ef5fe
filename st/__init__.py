"""Search-and-Train: compress a trained CNN by searching its structure and training that anew.

The public API is `__all__`; what else the package holds may change. `import st` is light: torch is
imported by what needs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from st.core.errors import StError
    from st.deploy.export import export
    from st.deploy.model import Model, Prediction, load

__version__ = "0.1.0"
__all__ = ["Model", "Prediction", "StError", "__version__", "export", "load"]

_PLACES = {
    "Model": "st.deploy.model",
    "Prediction": "st.deploy.model",
    "StError": "st.core.errors",
    "export": "st.deploy.export",
    "load": "st.deploy.model",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'st' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
