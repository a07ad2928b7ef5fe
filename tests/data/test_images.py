"""A data set on the device: what networks see of its images."""

import numpy as np
import pytest
import torch
from helpers.images import stripes

from st.core.device import choose
from st.data.images import Images, standardised


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (5, 3, 8, 8), (2, 3, 7, 33), (1, 4, 1, 1)])
def test_normalised_values_are_the_definition_s_to_the_bit(shape, dtype):
    """Whatever is the fastest order of the computation."""
    channels, rng = shape[1], np.random.default_rng(0)
    data = stripes()
    images = Images(data, choose("cpu", 1))
    images._mean = torch.rand(channels, 1, 1) * 200
    images._scale = torch.rand(channels, 1, 1)
    batch = torch.from_numpy(rng.integers(0, 256, shape)).to(dtype)
    for given in (batch, batch.contiguous(memory_format=torch.channels_last)):
        before = given.clone()
        found = images.normalise(given)
        assert found.dtype == torch.float32
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found, standardised(batch, images._mean, images._scale))
        assert torch.equal(given, before)  # mixed or jittered images are used again
