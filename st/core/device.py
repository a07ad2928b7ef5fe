"""Where networks run: device, number format, memory layout, determinism."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from st.core import process, slots
from st.core.capture import Captured
from st.core.errors import StError
from st.core.progress import say

Module = TypeVar("Module", bound=nn.Module)


def channels_last(network: Module) -> Module:
    """The network with the weights of its convolutions in the layout of memory that is fast. Other
    tensors stay: operators such as view_as_complex ask for theirs."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return network


CAPTURE = True  # whether GPUs capture training steps as CUDA graphs


@dataclass(frozen=True)
class Device:
    """A torch device and how it is used. `name`: as torch spells it; `precision`: as in
    st/training/recipe.py."""

    name: str
    precision: str = "auto"

    @property
    def is_cuda(self) -> bool:
        """Whether it is a GPU."""
        return self.name.startswith("cuda")

    @property
    def computes(self) -> str:
        """What networks compute in: float32, tf32 (on GPUs only) or bfloat16."""
        if self.precision == "auto":
            return "bfloat16" if self.is_cuda else "float32"
        return "float32" if self.precision == "tf32" and not self.is_cuda else self.precision

    @property
    def half(self) -> bool:
        """Whether networks compute in bfloat16."""
        return self.computes == "bfloat16"

    def using(self, precision: str) -> "Device":
        """The same device with another precision, from now on."""
        result = replace(self, precision=precision)
        if self.is_cuda:
            # By default torch lets convolutions round to TF32's 10 bits, which is not float32.
            form = "tf32" if result.computes == "tf32" else "ieee"
            torch.backends.cuda.matmul.fp32_precision = form
            torch.backends.cudnn.conv.fp32_precision = form  # type: ignore[attr-defined]
            torch.backends.cudnn.rnn.fp32_precision = form  # type: ignore[attr-defined]
        return result

    def autocast(self) -> AbstractContextManager:
        """The context in which networks run: bfloat16 where `half`, else nothing special."""
        kind = "cuda" if self.is_cuda else "cpu"
        return torch.autocast(kind, torch.bfloat16) if self.half else nullcontext()

    def place(self, network: Module) -> Module:
        """The network on the device, in channels_last, the layout that is fast on both kinds."""
        return channels_last(network.to(self.name))

    def tensor(self, array: np.ndarray) -> Tensor:
        """An array's values on the device."""
        return torch.from_numpy(array).to(self.name)

    def freeze(self, network: Module) -> Module:
        """For a network that is only read: weights in the format that autocast would cast them to
        in every step."""
        if self.half:
            for layer in network.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    layer.to(torch.bfloat16)
        return network

    def repeatable(self, step: Callable[[], None]) -> Callable[[], None]:
        """`step`, which is called many times, in the fastest form."""
        return Captured(step, self.name) if self.is_cuda and CAPTURE else step

    def wait(self) -> None:
        """Return when all queued work is done; for measuring time."""
        if self.is_cuda:
            torch.cuda.synchronize(self.name)

    def memory(self) -> int:
        """Bytes of GPU memory that this process has had at once, CUDA's own aside; 0 on a CPU."""
        return torch.cuda.max_memory_reserved(self.name) if self.is_cuda else 0

    @property
    def threads(self) -> int:
        """Threads with which torch computes on the CPU."""
        return torch.get_num_threads()

    def describe(self) -> str:
        """The GPU's name, or 'CPU', for people."""
        return torch.cuda.get_device_name(self.name) if self.is_cuda else "CPU"


# what `choose` and `Device.using` set for the whole process, where it is on a GPU
SETTINGS = (
    (torch.backends.cudnn, "deterministic"),
    (torch.backends.cudnn, "benchmark"),
    (torch.backends.cudnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    (torch.backends.cudnn.rnn, "fp32_precision"),
    (torch.backends.cuda.matmul, "fp32_precision"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),
)


@contextmanager
def apart() -> Iterator[None]:
    """Torch as a fresh process has it, for what programs and notebooks call: whatever gradient
    mode, default type and device are theirs. Afterwards these, random numbers, threads and what
    makes GPUs deterministic are as before."""
    dtype, where = torch.get_default_dtype(), torch.get_default_device()
    threads, found = torch.get_num_threads(), [getattr(*setting) for setting in SETTINGS]
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    current = torch.cuda.current_device() if gpus else None
    with torch.random.fork_rng(gpus), torch.inference_mode(False), torch.enable_grad():
        try:
            torch.set_default_dtype(torch.float32)
            if where.type != "cpu":
                torch.set_default_device(None)
            yield
        finally:
            torch.set_default_dtype(dtype)
            if where.type != "cpu":
                torch.set_default_device(where)
            if torch.cuda.is_initialized():  # maybe only since then
                torch.cuda.set_device(current or 0)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            for setting, value in zip(SETTINGS, found, strict=True):
                if getattr(*setting) != value:
                    setattr(*setting, value)
            if torch.are_deterministic_algorithms_enabled() != strict:
                torch.use_deterministic_algorithms(strict, warn_only=warns)


def choose(
    name: str = "auto",
    threads: int | None = None,
    rank: int | None = None,
    precision: str = "auto",
) -> Device:
    """The device called `name`, set up to be deterministic. auto: a GPU if there is one; of several
    one with a free slot, if a workflow runs this. `rank`: the number of this process on this
    machine, if each of several takes a GPU."""
    if threads and not 0 <= threads <= process.MOST_THREADS:
        raise StError(f"threads: must be 0 to {process.MOST_THREADS}, not {threads}")
    if threads:
        torch.set_num_threads(threads)
    process.keep_memory()
    if name == "auto":
        slots.take()
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and slots.held():
            say("WARNING: has a slot of a GPU, but torch sees none (driver, MPS?): uses the CPU")
    if name == "cuda" and rank is not None:
        name = f"cuda:{rank}"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number.isdecimal() or name == "cuda")):
        raise StError(f"device {name}: is not known; use auto, cpu, cuda, cuda:1, ...")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise StError(f"device {name}: torch sees no GPU here; use device cpu")
        if int(number or 0) >= torch.cuda.device_count():
            raise StError(f"device {name}: there are {torch.cuda.device_count()} GPUs, from 0 on")
        if number:  # what names no device, as captures do, means the current one
            torch.cuda.set_device(int(number))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        # Not on CPUs: the kernels in use are deterministic there, and the call imports torch's
        # compiler, which takes as long as torch itself.
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Or every new tensor would be filled before it is written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Device(name).using(precision)
