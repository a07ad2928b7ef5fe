"""Where and with what results were made: machine, software, commit.

Each training records it in its model and each evaluation in its metrics, because different machines
may do the jobs of a run; the report collects it in results/environment.json. Models do not say the
commit: the same training at another commit gives the same bytes.
"""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CODE = ("st", "workflow", "Snakefile", "requirements.lock", "pyproject.toml")
PACKAGES = ("torch", "numpy", "safetensors")
Facts = dict[str, Any]


def here(
    device: str | None = None, threads: int | None = None, precision: str | None = None
) -> Facts:
    """This process: versions that decide numbers, the hash of the lock file (None without one), the
    machine. `device` and `precision`: as st.core.device describes them, None for what computes
    without torch."""
    lock = ROOT / "requirements.lock"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "lock": hashlib.sha256(lock.read_bytes()).hexdigest()[:16] if lock.exists() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "device": device,
        "threads": threads,
        "precision": precision,
    }


def commit() -> Facts:
    """The code's git commit, and whether its files differ from it; None where there is no git."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        if Path(top).resolve() != ROOT.resolve():  # installed somewhere in another repository
            return {"commit": None, "modified": None}
        changes = _git("status", "--porcelain", "--", *CODE)
        return {"commit": _git("rev-parse", "HEAD"), "modified": bool(changes)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "modified": None}


def _git(*arguments: str) -> str:
    # without locks: jobs run side by side
    variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def processor() -> str:
    """The CPU's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
