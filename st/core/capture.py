"""Steps as CUDA graphs: one launch, where those of its kernels would take longer than they do."""

from collections.abc import Callable
from contextlib import suppress

import torch

from st.core.errors import one_line
from st.core.progress import say

WARM_UP = 3  # steps before the capture, in which libraries choose kernels and allocate


class Captured:
    """A function that launches the same work on the same memory each time, as one CUDA graph.

    The first calls run it as it is: none is for practice. Then a call is captured, which runs
    nothing, and from then on the graph is replayed. If that is impossible, all run it as it is.
    """

    def __init__(self, step: Callable[[], None], device: str):
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
            self._capture_or_not()
        if self._calls > WARM_UP:
            self._again()

    def _capture_or_not(self) -> None:
        try:
            self._again = self._capture()
        except Exception as error:  # what is not the capture's fault comes again with the step
            reasons: list[str] = []
            cause: BaseException | None = error
            while cause:
                first = str(cause).strip().partition("\n")[0]  # the rest of CUDA's is advice
                reasons.append(one_line(first, 200) or type(cause).__name__)
                cause = cause.__cause__ or cause.__context__
            # torch says first that the capture was ended, and why last
            told = "; because: ".join(dict.fromkeys(reasons))
            say(f"steps are launched one by one: capturing one failed ({told})")

    def _new_stream(self):
        return torch.cuda.Stream(self._device)

    def _beside(self, function: Callable[[], None]) -> None:
        """Run on the stream that will capture, as warming up must be."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            function()
        current.wait_stream(self._stream)

    def _capture(self) -> Callable[[], None]:
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        try:
            # by default the thread that pins batches beside this one would end the capture
            how = "thread_local"
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode=how):
                self._step()
        except BaseException:
            # torch leaves its context before it restores the stream, and keeps the graph's memory
            torch.cuda.set_stream(current)
            with suppress(RuntimeError):
                graph.reset()
            raise
        return graph.replay
