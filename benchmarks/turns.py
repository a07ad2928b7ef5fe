"""Processes that take turns, so that a busy moment of the machine hits all of them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from common import folder_data, random_data

PATIENCE = 300  # seconds for a turn, the first with all preparations


def perform(
    pipe: Connection, train: Callable, device: str, threads: int, case, distill: bool, folder,
    **options,
) -> None:  # fmt: skip
    """In a process of its own: `train`, an epoch whenever the pipe says so. Sends images a second,
    after the first epoch None: it starts workers, chooses kernels and allocates."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    # for data loaders' workers: as in a process that was not spawned itself
    multiprocessing.set_start_method("fork", force=True)
    images = case.batch * case.steps
    data = folder_data(folder, images) if folder else random_data(images)
    warm = False

    def turn(count: int, seconds: float) -> None:
        nonlocal warm
        pipe.send(count / seconds if warm else None)
        warm = True
        pipe.recv()

    train(turn, case, data, distill, device, threads, folder, **options)


@contextmanager
def started(worker: Callable, names: list[str], *arguments):
    """Pipes of processes that run `worker(pipe, name, *arguments)`, after their first epochs."""
    context = multiprocessing.get_context("spawn")
    runners = []
    try:
        for name in names:
            mine, other = context.Pipe()
            # not daemonic: the usual loop has workers of its own
            process = context.Process(target=worker, args=(other, name, *arguments))
            process.start()
            other.close()
            runners.append((process, mine))
        for name, (_, pipe) in zip(names, runners, strict=True):
            answer(pipe, name)
        yield [pipe for _, pipe in runners]
    finally:
        for process, _ in runners:
            process.terminate()  # not killed: NVIDIA's multi-process service minds
            process.join()


class Failed(Exception):
    """A contestant failed or hangs; the others need not."""


def answer(pipe: Connection, name: str) -> float | None:
    """What a process says next. Raises Failed."""
    try:
        if pipe.poll(PATIENCE):
            return pipe.recv()
        problem = f"did not finish an epoch in {PATIENCE} s"
    except EOFError:
        problem = "failed, see above"
    raise Failed(f"{name}: {problem}")


def race(
    worker: Callable, names: list[str], rounds: int, *arguments
) -> Iterator[tuple[str, int, float]]:
    """(name, round, images per second), as they are measured. Raises Failed."""
    with started(worker, names, *arguments) as pipes:
        for number in range(rounds):
            order = list(zip(names, pipes, strict=True))
            # alternately forwards and backwards, so that nobody always follows the same one
            for name, pipe in order if number % 2 == 0 else reversed(order):
                pipe.send("go")
                yield name, number, answer(pipe, name)
