"""What a person is told of a training's epochs."""

import logging
import time
from typing import Any

from st.core.progress import TERMINAL_INTERVAL, duration, logger, say


class Progress:
    """A line an epoch: all in the log, now and then one on the terminal."""

    def __init__(self, epochs: int, done: int = 0):
        self.epochs, self.done = epochs, done
        self.started = self.shown = time.monotonic()
        if done:
            say(f"resumes after epoch {done} of {epochs}")

    def epoch(self, row: dict[str, Any], speed: float) -> None:
        """Tell the row of an epoch's history; `speed` in images a second."""
        now, number = time.monotonic(), row["epoch"]
        left = (now - self.started) / (number - self.done) * (self.epochs - number)
        test = row["test_accuracy"]
        message = (
            f"epoch {number}/{self.epochs}  loss {row['loss']:.4f}  "
            f"train {row['train_accuracy']:.2f} %  "
            + (f"test {test:.2f} %  " if test is not None else "")
            + f"{speed:,.0f} images/s  {duration(left)} left"
        )
        show = number == self.epochs or now - self.shown > TERMINAL_INTERVAL
        self.shown = now if show else self.shown
        logger.log(logging.INFO if show else logging.DEBUG, message)
