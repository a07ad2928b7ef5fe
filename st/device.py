"""Where networks run: device, number format, memory layout, determinism."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from st import slots
from st.errors import StError


@dataclass(frozen=True)
class Device:
    """A torch device and how it is used. `name`: as torch spells it."""

    name: str

    @property
    def is_cuda(self) -> bool:
        return self.name.startswith("cuda")

    def autocast(self) -> AbstractContextManager:
        """bf16 where it is fast: on GPUs. CPUs without bf16 units are slower with it."""
        return torch.autocast("cuda", torch.bfloat16) if self.is_cuda else nullcontext()

    def place(self, network: nn.Module) -> nn.Module:
        return network.to(self.name, memory_format=torch.channels_last)

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.name)

    def wait(self) -> None:
        """Return when all queued work is done; for measuring time."""
        if self.is_cuda:
            torch.cuda.synchronize(self.name)

    def describe(self) -> str:
        return torch.cuda.get_device_name(self.name) if self.is_cuda else "CPU"


def choose(name: str = "auto", threads: int | None = None) -> Device:
    """The device called `name`, set up to be deterministic. auto: a GPU if there is one; of several
    one with a free slot, if a workflow runs this."""
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        slots.take()
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdecimal() or name == "cuda")):
        raise StError(f"--device {name}: is not known; use auto, cpu, cuda, cuda:1, ...")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise StError(f"--device {name}: torch sees no GPU here; use --device cpu")
        if int(number or 0) >= torch.cuda.device_count():
            raise StError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, from 0 on")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        # Not on CPUs: the kernels in use are deterministic there, and the call imports torch's
        # compiler, which takes as long as torch itself.
        torch.use_deterministic_algorithms(True, warn_only=True)
    return Device(name)
