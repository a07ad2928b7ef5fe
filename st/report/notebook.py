"""The comparison notebook, executed by the interpreter that runs this, whatever else is installed.

    python -m st.report.notebook TEMPLATE OUTPUT HTML JOB FOLDER

Jupyter takes the first kernel called python3 that it finds, also in the user's home, and reads the
user's settings and start-up files. None of that may decide what a report says.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def environment(folder: Path) -> dict[str, str]:
    """Variables under which Jupyter finds one kernel, this interpreter, and nothing of the user's.
    The kernel is described in `folder`."""
    kernel = folder / "kernels/python3"
    kernel.mkdir(parents=True)
    arguments = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    described = {"argv": arguments, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(described), encoding="utf-8")
    own = {name: str(folder / name) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR")}
    return {**os.environ, **own, "JUPYTER_PATH": str(folder), "JUPYTER_NO_CONFIG": "1"}


def main(template: str, output: str, html: str, job: str, folder: str) -> int:
    """Execute the notebook `template` to `output` and print it to `html`; the exit status."""
    with tempfile.TemporaryDirectory(prefix="st-jupyter-") as private:
        variables = environment(Path(private))
        python = [sys.executable, "-m"]
        execute = ["papermill", template, output, "-p", "job", job, "-p", "folder", folder]
        convert = ["nbconvert", "--to", "html", "--no-input", output, "--output", Path(html).name]
        for command in ([*python, *execute], [*python, *convert]):
            status = subprocess.run(command, env=variables, check=False).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
