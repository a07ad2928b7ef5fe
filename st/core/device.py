"""Where networks run: device, number format, memory layout, determinism."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from st.core import process, slots
from st.core.errors import StError
from st.core.progress import say

Module = TypeVar("Module", bound=nn.Module)

# Whether GPUs capture training steps as CUDA graphs (see Captured).
CAPTURE = True
WARM_UP = 3  # steps before the capture, in which libraries choose kernels and allocate


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
    def half(self) -> bool:
        """Whether networks compute in bfloat16."""
        return self.is_cuda if self.precision == "auto" else self.precision == "bfloat16"

    def autocast(self) -> AbstractContextManager:
        """The context in which networks run: bfloat16 where `half`, else nothing special."""
        kind = "cuda" if self.is_cuda else "cpu"
        return torch.autocast(kind, torch.bfloat16) if self.half else nullcontext()

    def place(self, network: Module) -> Module:
        """The network on the device, in channels_last, the layout that is fast on both kinds."""
        # torch's stub lacks this combination
        return network.to(self.name, memory_format=torch.channels_last)  # type: ignore[call-overload]

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
        return Captured(step, self) if self.is_cuda and CAPTURE else step

    def wait(self) -> None:
        """Return when all queued work is done; for measuring time."""
        if self.is_cuda:
            torch.cuda.synchronize(self.name)

    @property
    def threads(self) -> int:
        """Threads with which torch computes on the CPU."""
        return torch.get_num_threads()

    def describe(self) -> str:
        """The GPU's name, or 'CPU', for people."""
        return torch.cuda.get_device_name(self.name) if self.is_cuda else "CPU"


class Captured:
    """A function that launches the same work on the same memory each time, as one CUDA graph.

    The first calls run it as it is: none is for practice. Then a call is captured, which runs
    nothing, and from then on the graph is replayed. If that is impossible, all run it as it is.
    """

    def __init__(self, step: Callable[[], None], device: Device):
        self._step, self._device = step, device
        self._calls, self._again = 0, step

    def __call__(self) -> None:
        """One step, replayed or not."""
        self._calls += 1
        if self._calls == 1:
            self._stream = self._new_stream()
        if self._calls <= WARM_UP:
            self._beside(self._step)
        elif self._calls == WARM_UP + 1:
            self._record_or_not()
        if self._calls > WARM_UP:
            self._again()

    def _record_or_not(self) -> None:
        try:
            self._again = self._capture()
        except RuntimeError as error:  # torch's errors of CUDA are such
            reason = str(error).strip().partition("\n")[0]
            say(f"steps are launched one by one: capturing one failed ({reason})")

    def _new_stream(self):
        return torch.cuda.Stream(self._device.name)

    def _beside(self, function: Callable[[], None]) -> None:
        """Run on the stream that will capture, as warming up must be."""
        current = torch.cuda.current_stream(self._device.name)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function()
        current.wait_stream(self._stream)

    def _capture(self) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._step()
        return graph.replay


def choose(
    name: str = "auto",
    threads: int | None = None,
    rank: int | None = None,
    precision: str = "auto",
) -> Device:
    """The device called `name`, set up to be deterministic. auto: a GPU if there is one; of several
    one with a free slot, if a workflow runs this. `rank`: the number of this process on this
    machine, if each of several takes a GPU."""
    if threads:
        torch.set_num_threads(threads)
    process.keep_memory()
    if name == "auto":
        slots.take()
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and rank is not None:
        name = f"cuda:{rank}"
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
        # Or every new tensor would be filled before it is written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Device(name, precision)
