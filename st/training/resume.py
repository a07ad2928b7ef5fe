"""Going on after an interruption, exactly.

The state is one safetensors file beside the model, never a declared output of the workflow: so it
outlives a killed job. It holds weights, those of losses' adapters, the optimiser's moments, the
weights to rewind to, the number of epochs done (the history's length), a key of everything the
result depends on, and what computed it. A state with another key, from another kind of device, or
damaged, is of no use: the training starts over and says so.
"""

import json
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import torch

from st.core.device import Device
from st.core.errors import StError
from st.core.job import fingerprint
from st.core.locks import alone
from st.core.progress import say
from st.core.tensors import VERSION, read_tensors, write_tensors
from st.training.launch import STOP, Abandoned
from st.training.loop import Trained
from st.training.parallel import Group

FORMAT = "search-and-train training state"
INTERVAL = 20.0  # seconds between two states


class Interrupted(StError):
    """The training was told to stop (SIGTERM or SIGURG) and has written its state."""


class Resume:
    """Keeps the state of one training at `path`, while it is the context of a `with`.

    Raises StError if another training is in the same folder. `group`: the processes, if several
    compute the training; all of them read the state, one writes it, and they stop together.
    """

    def __init__(self, path: Path, depends_on: dict, device: Device, group: Group | None = None):
        self.path, self._group = path, group
        self._leads = group is None or group.rank == 0
        self.key = fingerprint(depends_on)
        cudnn = torch.backends.cudnn.version() if device.is_cuda else None
        self.made = {
            "torch": torch.__version__,
            "device": "GPU" if device.is_cuda else "CPU",
            "precision": device.computes,
            "cuDNN": cudnn,
        }
        self._saved = time.monotonic()
        self._stop = False
        self._after = ExitStack()

    def __enter__(self) -> Self:
        if self._leads:
            self._after.enter_context(alone(self.path.parent, "training"))
        # Told to stop: finish the epoch, write the state, go. SIGTERM ends the workflow around the
        # training too; SIGURG, which all other programs ignore, is a cluster's notice that time is
        # nearly up.
        for number in STOP:
            before = signal.signal(number, self._request_stop)
            self._after.callback(signal.signal, number, before)
        # one of several processes has kept them waiting
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        self._after.callback(signal.pthread_sigmask, signal.SIG_SETMASK, blocked)
        return self

    def __exit__(self, *_) -> None:
        self._after.close()

    def _request_stop(self, *_) -> None:
        self._stop = True

    def restore(self, run: Trained) -> None:
        """Put the state into `run`, if there is one that fits it."""
        if not self.path.exists():
            return
        try:
            tensors, header = read_tensors(self.path, FORMAT)
        except StError as error:
            say(f"starts over, because the interrupted training's state cannot be used: {error}")
            return
        if header.get("key") != self.key:
            say("starts over: the interrupted training's job, data, weights or code were others")
            return
        made = header.get("made")
        if made != self.made:
            others = [
                f"{name} {made.get(name)} instead of {value}"
                for name, value in self.made.items()
                if isinstance(made, dict) and made.get(name) != value
            ]
            say(f"starts over: the interrupted training used {', '.join(others) or 'other code'}")
            return
        weights: dict[str, dict] = {kind: {} for kind in run.modules}
        for name, value in tensors.items():
            kind, _, rest = name.partition(":")
            if kind in weights:
                weights[kind][rest] = torch.from_numpy(value)
            elif kind == "early":
                run.early[rest] = value
            else:
                run.moments[int(rest)].copy_(torch.from_numpy(value))
        for kind, module in run.modules.items():
            module.load_state_dict(weights[kind])
        run.history = header["history"]

    def after_epoch(self, run: Trained) -> None:
        """Write the state if it is time, or if the process was told to stop."""
        if len(run.history) == run.epochs:
            return
        stop = self._group.any(self._stop) if self._group else self._stop
        if self._leads and (stop or time.monotonic() - self._saved >= INTERVAL):
            self._write(run)
        if stop:
            if self._group:
                self._group.any(stop)  # no process goes before the state is written
            if not self._leads:
                raise Abandoned("stopped with the leader, which says so")
            raise Interrupted(
                f"stopped after epoch {len(run.history)} of {run.epochs}; run it again to resume"
            )

    def _write(self, run: Trained) -> None:
        tensors = {
            f"{kind}:{name}": value.cpu().numpy()
            for kind, module in run.modules.items()
            for name, value in module.state_dict().items()
        }
        tensors |= {f"moment:{i}": m.cpu().numpy() for i, m in enumerate(run.moments)}
        tensors |= {f"early:{name}": value for name, value in run.early.items()}
        header = {
            "format": FORMAT,
            "version": VERSION,
            "key": self.key,
            "made": self.made,
            "history": run.history,
        }
        write_tensors(self.path, tensors, json.loads(json.dumps(header)))
        self._saved = time.monotonic()

    def finish(self) -> None:
        """Remove the state: the model is complete."""
        self.path.unlink(missing_ok=True)
