"""What makes training fast must not change what it computes."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.networks import SMALL, pruned, random_keep, random_tensors, small_structure
from helpers.training import ALL, a_run, a_teacher, trained
from torch import nn
from torch.nn import functional as F

from st.core import capture
from st.core.capture import WARM_UP, Captured
from st.core.device import Device
from st.data import views
from st.data.augment import Augment
from st.networks import network
from st.networks.graph import Node
from st.training import loop
from st.training.loop import Step


def images(structure, count=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *structure.input_shape, generator=generator)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("whole", [True, False])
def test_folding_keeps_every_output(name, whole):
    rng, structure = np.random.default_rng(3), small_structure(name)
    if not whole:
        structure = pruned(structure, random_keep(structure, rng))
    net = network.build(structure, random_tensors(structure, rng)).eval()
    before = network.tensors(net)
    fast, batch, taps = network.folded(net), images(structure), tuple(structure.graph.taps)
    with torch.no_grad():
        expected, found = net(batch, taps), fast(batch, taps)
    assert found.keys() == expected.keys()
    for tap in taps:
        torch.testing.assert_close(found[tap], expected[tap], rtol=1e-4, atol=1e-4)
    norms = [
        sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in n.modules())
        for n in (net, fast)
    ]
    # there every normalisation comes before its convolution
    assert (norms[1] < norms[0]) == (name != "densenet")
    for key, value in network.tensors(net).items():
        np.testing.assert_array_equal(value, before[key])


def test_what_is_tapped_is_not_folded():
    structure = small_structure("resnet")
    nodes = structure.graph.nodes
    structure.graph.taps["raw"] = next(n for n, node in enumerate(nodes) if node.op == "conv")
    net = network.build(structure, random_tensors(structure, np.random.default_rng(0))).eval()
    with torch.no_grad():
        expected, found = (n(images(structure), ("raw",)) for n in (net, network.folded(net)))
    torch.testing.assert_close(found["raw"], expected["raw"])


@pytest.mark.parametrize("name", SMALL)
def test_relus_in_place_change_nothing(name, monkeypatch):
    """Every value and gradient, also of values before a ReLU that someone asks for."""
    structure = small_structure(name)
    values = {f"node{n}": n for n, node in enumerate(structure.graph.nodes) if n}
    tensors = random_tensors(structure, np.random.default_rng(5))

    def results(taps):
        structure.graph.taps.update(values)
        net = network.build(structure, tensors).train()
        outputs = net(images(structure), taps)
        F.cross_entropy(outputs["logits"], torch.arange(4)).backward()
        return outputs["logits"].detach(), [w.grad for w in net.parameters()], outputs

    logits, gradients, _ = results(("logits",))
    with monkeypatch.context() as patch:
        patch.setattr(network, "FRESH", ())
        expected_logits, expected, plain = results((*values, "logits"))
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=0)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    _, _, outputs = results((*values, "logits"))
    for tap, value in plain.items():
        torch.testing.assert_close(outputs[tap], value, rtol=0, atol=0)


def test_copies_of_the_weights_change_nothing(monkeypatch):
    """Casting all weights at once is what autocast does one by one: to the bit."""

    def results():
        run = trained(a_run(precision="bfloat16", augment=Augment(crop=1)))
        return network.tensors(run.network), run.history

    weights, history = results()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "Copies", lambda net: None)
        expected, expected_history = results()
    assert history == expected_history
    for name, value in weights.items():
        np.testing.assert_array_equal(value, expected[name])


class Practised(Captured):
    """Capture as on a GPU, where it runs nothing and its replays do all."""

    def __init__(self, step, device):
        super().__init__(step, device)
        self.eager = self.repeated = 0

    def _new_stream(self):
        return None

    def _beside(self, function):
        self.eager += 1
        function()

    def _capture(self):
        def again():
            self.repeated += 1
            self._step()

        return again


def with_recorder(monkeypatch, recorder, **arguments):
    """The run's weights and history if its device records, and the recorder."""
    made = []

    def repeatable(self, step):
        made.append(recorder(step, self.name))
        return made[0]

    with monkeypatch.context() as patch:
        patch.setattr(Device, "repeatable", repeatable)
        run = trained(a_run(epochs=3, augment=Augment(crop=1), **arguments))
    return network.tensors(run.network), run.history, made[0]


@pytest.mark.parametrize("arguments", [{}, {"objective": ALL, "teacher": a_teacher()}])
def test_recorded_steps_are_the_steps(monkeypatch, arguments):
    plain = trained(a_run(epochs=3, augment=Augment(crop=1), **arguments))
    weights, history, recorder = with_recorder(monkeypatch, Practised, **arguments)
    assert (recorder.eager, recorder.repeated) == (WARM_UP, 15 - WARM_UP)
    assert history == plain.history
    for name, value in network.tensors(plain.network).items():
        np.testing.assert_array_equal(value, weights[name])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("learns", [False, True])
def test_bfloat16_is_float32_but_for_rounding(name, learns):
    """GPUs compute in it by themselves. Here on the CPU: a step's losses and gradients."""
    structure, rng = small_structure(name, (1, 8, 8), 3), np.random.default_rng(1)
    tensors, teacher = (random_tensors(structure, rng) for _ in range(2))
    learns = {"objective": ALL, "teacher": network.build(structure, teacher)} if learns else {}
    found = {}
    for precision in ("float32", "bfloat16"):
        run = a_run(precision=precision, augment=Augment(crop=1), momentum=0.0, lr=1e-2, **learns)
        run = replace(run, network=run.device.place(network.build(structure, tensors)).train())
        step = Step(run, batch_size=40, steps=1)
        step.begin(0)
        step()
        assert all(weight.dtype == torch.float32 for weight in run.weights)
        change = [network.tensors(run.network)[key] - tensors[key] for key in tensors]
        found[precision] = step.means()["loss"], np.concatenate([c.ravel() for c in change])
    (loss, change), (half_loss, half_change) = found.values()
    assert 0 < abs(half_loss - loss) < 0.02 * loss
    assert 0 < np.linalg.norm(half_change - change) < 0.1 * np.linalg.norm(change)


def test_who_computes_in_bfloat16():
    assert Device("cuda").half and Device("cuda:1", "bfloat16").half
    assert not Device("cpu").half and not Device("cuda", "float32").half
    frozen = Device("cpu", "bfloat16").freeze(a_teacher())
    kinds = {type(m): m.weight.dtype for m in frozen.modules() if hasattr(m, "weight")}
    # a normalisation's running statistics need the digits
    assert kinds == {
        nn.Conv2d: torch.bfloat16, nn.Linear: torch.bfloat16, network.BatchNorm2d: torch.float32
    }  # fmt: skip


def test_where_capturing_fails_steps_go_on(monkeypatch):
    """As when a loss waits for the device: what the capture left behind must not count."""
    said = []
    monkeypatch.setattr(capture, "say", said.append)

    class Failing(Practised):
        def _capture(self):
            for weight in self._step.run.weights:
                weight.grad = torch.full_like(weight, 1e9)
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain = trained(a_run(epochs=3, augment=Augment(crop=1)))
    weights, history, _ = with_recorder(monkeypatch, Failing)
    assert history == plain.history
    for name, value in network.tensors(plain.network).items():
        np.testing.assert_array_equal(value, weights[name])
    (message,) = said
    assert "one by one" in message and message.endswith("stream is capturing)")


def test_a_failed_capture_restores_the_stream_and_tells_all_causes(monkeypatch):
    """torch.cuda.graph leaves its context in the order of this stand-in: where ending the capture
    fails, the stream is not restored, and the first cause is behind a second one."""
    said, freed, current = [], [], ["default"]
    monkeypatch.setattr(capture, "say", said.append)

    class Graph:
        def reset(self):
            freed.append(self)

    class Capture:
        def __init__(self, graph, stream, capture_error_mode):
            assert capture_error_mode == "thread_local"  # other threads may use the device
            self.stream = stream

        def __enter__(self):
            current[0] = self.stream

        def __exit__(self, *_):
            raise RuntimeError("the capture was invalidated")

    class Beside(Captured):
        def _new_stream(self):
            return "capturing"

        def _beside(self, function):
            function()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda name: current[0])
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: current.__setitem__(0, stream))
    streams = []

    def step():
        streams.append(current[0])
        if current[0] == "capturing":
            raise ValueError("a loss asks for a value")

    step_or_not = Beside(step, "cuda")
    for _ in range(WARM_UP + 2):
        step_or_not()
    assert streams == ["default"] * WARM_UP + ["capturing"] + ["default"] * 2
    assert current == ["default"] and len(freed) == 1
    (message,) = said
    assert "the capture was invalidated; because: a loss asks for a value" in message


@pytest.mark.parametrize("precision, form", [("float32", "ieee"), ("tf32", "tf32")])
def test_float32_on_a_gpu_is_not_tf32(precision, form, monkeypatch):
    matmul, conv, rnn = SimpleNamespace(), SimpleNamespace(), SimpleNamespace()
    monkeypatch.setattr(torch.backends.cuda, "matmul", matmul)
    monkeypatch.setattr(torch.backends.cudnn, "conv", conv, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "rnn", rnn, raising=False)
    used = Device("cuda:0").using(precision)
    assert used.computes == precision and not used.half
    assert matmul.fp32_precision == conv.fp32_precision == rnn.fp32_precision == form
    assert Device("cuda:0").using("auto").half
    assert matmul.fp32_precision == conv.fp32_precision == "ieee"
    assert Device("cpu").using("tf32").computes == "float32"


def test_torch_has_the_switches_of_tf32():
    assert torch.backends.cuda.matmul.fp32_precision in ("none", "ieee", "tf32")
    assert torch.backends.cudnn.conv.fp32_precision in ("none", "ieee", "tf32")
    assert torch.backends.cudnn.rnn.fp32_precision in ("none", "ieee", "tf32")


def test_a_step_never_waits_for_the_device(monkeypatch):
    """Nothing in it asks for a value: that would forbid to record it, and stop a GPU."""

    def asked(*arguments):
        raise AssertionError("a step asks for a tensor's value")

    run = a_run(epochs=1, objective=ALL, teacher=a_teacher(), augment=Augment(crop=1), sparsity=0.1)
    step = Step(run, batch_size=8, steps=5)
    step.begin(0)
    monkeypatch.setattr(views, "one_by_one", lambda images: False)  # as on a GPU
    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    step()


@pytest.mark.parametrize("name", ["densenet", "preresnet"])
def test_layout_survives_selections(name):
    """Forward and back: one value in another layout, and all after it are copied."""
    rng, structure = np.random.default_rng(5), small_structure(name)
    structure = pruned(structure, random_keep(structure, rng))
    net = network.build(structure, random_tensors(structure, rng)).train()
    net = net.to(memory_format=torch.channels_last)
    values, gradients = [], []

    def look(module: nn.Module, inputs, output: torch.Tensor) -> None:
        values.append(output)
        output.register_hook(gradients.append)

    chosen = [module for module in net.modules() if isinstance(module, network.Selection)]
    for module in chosen:
        module.register_forward_hook(look)
    x = images(structure).contiguous(memory_format=torch.channels_last)
    net(x).square().sum().backward()
    assert len(values) == len(gradients) == len(chosen) > 0
    for tensor in values + gradients:
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_layout_survives_shortcuts():
    x = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    node = Node("shortcut", "shortcut", (0,), 4, 8, stride=2)
    output = network.apply(node, [x])
    output.backward(torch.randn(2, 8, 4, 4).to(memory_format=torch.channels_last))
    for tensor in (output, x.grad):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(params=[False, True], ids=["CPU", "GPU"])
def deterministic(request):
    """As on a CPU, and as on a GPU."""
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_selections_have_the_gradient_of_indexing(deterministic, dtype):
    x = torch.randn(3, 7, 4, 5, dtype=dtype).requires_grad_()
    index, gradient = np.array([1, 2, 6]), torch.randn(3, 3, 4, 5, dtype=dtype)
    output = network.Selection(index, 7)(x)
    (got,) = torch.autograd.grad(output, x, gradient)
    expected = x[:, index]
    assert torch.equal(output, expected)
    assert torch.equal(got, torch.autograd.grad(expected, x, gradient)[0]) and got.dtype == dtype


def test_selections_of_several_networks_at_once(deterministic):
    """What benchmarks/jobs.py measures."""
    select = network.Selection(np.array([0, 3]), 4)
    x, gradient = torch.randn(5, 3, 4, 2, 2), torch.randn(5, 3, 2, 2, 2)
    output, back = torch.func.vjp(torch.vmap(select), x)
    assert torch.equal(output, x[:, :, [0, 3]])
    expected = torch.zeros_like(x)
    expected[:, :, [0, 3]] = gradient
    assert torch.equal(back(gradient)[0], expected)
