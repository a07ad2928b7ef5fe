"""Fixtures of all tests."""

import copy
import logging
import signal

import pytest
import torch
import yaml
from helpers.networks import SMALL, small_structure
from helpers.params import TINY
from hypothesis import settings

from st.core import progress
from st.data.augment import Augment
from st.networks.structure import Structure

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
# The first gradient decides which threads torch starts for gradients: after torch.export has been
# imported there are some, and processes that tests fork later could compute none.
torch.ones(1, requires_grad=True).sum().backward()


def pytest_collection_modifyitems(items):
    """The longest first, those that run whole workflows, or one process waits for another's."""
    items.sort(key=lambda item: "workflow" not in item.path.parts)


@pytest.fixture
def tiny() -> dict:
    """A complete params.yaml as data, to be changed at will."""
    return copy.deepcopy(yaml.safe_load(TINY))


@pytest.fixture(params=SMALL)
def small(request) -> Structure:
    """The full network of each entry of SMALL, for gray 9x11 images and 5 classes."""
    return small_structure(request.param)


@pytest.fixture(autouse=True)
def as_found():
    """Put back what a phase changes in its process: signal handlers and log handlers."""
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGURG)}
    handlers = list(logging.getLogger("st").handlers)
    yield
    for number, handler in found.items():
        signal.signal(number, handler)
    progress.logger.handlers[:] = handlers


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(job, folder, runs, table) of a synthetic results tree."""
    from helpers.synthetic import make_job, write_results

    from st.report import tables  # with pandas, which few tests need

    folder, job = tmp_path_factory.mktemp("results"), make_job()
    write_results(folder, job)
    runs = tables.collect(job, folder)
    return job, folder, runs, tables.aggregate(runs)


@pytest.fixture
def epochs_run(monkeypatch):
    """The numbers of the epochs that are computed from here on."""
    found, draw = [], Augment.draw

    def noted(self, images, seed, epoch):
        found.append(epoch + 1)
        return draw(self, images, seed, epoch)

    monkeypatch.setattr(Augment, "draw", noted)
    return found
