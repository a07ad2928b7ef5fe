"""The distillation losses, against their papers' formulas in plain numpy, number by number."""

import numpy as np
import pytest
import torch
from helpers import formulas
from helpers.networks import pruned, random_tensors, small_structure
from torch.nn import functional as F

from st.core.errors import StError
from st.core.registry import losses
from st.networks import network
from st.report import captions
from st.training.losses import taps_of

OTHERS = ["at", "dkd", "fitnet", "pkt", "rkd", "sp"]
STAGES = {"at": ["stage1", "stage2"], "sp": ["stage2"], "fitnet": ["stage1"]}
BATCH, CLASSES = 6, 4
LABELS = torch.tensor([0, 3, 1, 1, 2, 0])


def outputs(seed, width=1, batch=BATCH, size=(4, 6)):
    """Every tap of a network with two stages, as after a ReLU; `width` times as many channels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "stage1": normal(batch, 3 * width, *size).relu(),
        "stage2": normal(batch, 5 * width, size[0] // 2, size[1] // 2).relu(),
        "features": normal(batch, 7 * width).relu(),
        "logits": 3 * normal(batch, CLASSES),
    }


STUDENT, TEACHER = outputs(seed=0), outputs(seed=1, width=2)


def adapter(channels_in, channels, seed=3):
    generator = torch.Generator().manual_seed(seed)
    module = torch.nn.Conv2d(channels_in, channels, 1, dtype=torch.float64)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return module


def call(name, student, teacher, labels=LABELS, module=None, **options):
    """The loss, given what an objective gives it."""
    loss = losses.get(name)
    taps = taps_of(name, losses.check(name, options), student)
    student, teacher = ({tap: each[tap] for tap in taps} for each in (student, teacher))
    if module is None and loss.adapter:
        module = adapter(student[taps[0]].shape[1], teacher[taps[0]].shape[1])
    return loss(student, teacher, labels, *([module] if module else []), **options)


@pytest.mark.parametrize("name", losses.names())
def test_losses_that_take_mixed_labels(name):
    """Those that say so give what they give for whole labels, as probabilities."""
    probabilities = F.one_hot(LABELS, STUDENT["logits"].shape[1]).double()
    if not losses.get(name).soft:
        assert name == "dkd"
        return
    expected = call(name, STUDENT, TEACHER)
    torch.testing.assert_close(call(name, STUDENT, TEACHER, probabilities), expected)


def arrays(*all_outputs):
    return [{tap: value.numpy() for tap, value in each.items()} for each in all_outputs]


def test_every_loss_is_tested():
    assert sorted(["ce", "kd", "cc", *OTHERS]) == losses.names() == sorted(captions.LOSSES)
    text = captions._loss("fitnet", {"weight": 100.0, "stage": None})
    assert text == "100 hints from a stage of the supernet"


def test_at():
    expected = formulas.at(*arrays(STUDENT, TEACHER), ["stage1", "stage2"])
    assert call("at", STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-10)
    assert expected > 1e-4


def test_sp():
    expected = formulas.sp(*arrays(STUDENT, TEACHER))
    assert call("sp", STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("scale", [1, 20])
def test_rkd(scale):
    """Also with one point far from the others, where Huber's loss is linear."""
    student = {"features": STUDENT["features"].clone()}
    student["features"][0] *= scale
    pairs, triples = formulas.rkd(*arrays(student, TEACHER))
    options = {"distance": 2.0, "angle": 3.0}
    loss = call("rkd", student, TEACHER, **options)
    assert loss.item() == pytest.approx(2 * pairs + 3 * triples, rel=1e-10)
    assert call("rkd", student, TEACHER).item() == pytest.approx(25 * pairs + 50 * triples)
    assert call("rkd", student, TEACHER, angle=0.0).item() == pytest.approx(25 * pairs)
    assert call("rkd", student, TEACHER, distance=0.0).item() == pytest.approx(50 * triples)


def test_pkt():
    expected = formulas.pkt(*arrays(STUDENT, TEACHER))
    assert call("pkt", STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-4)  # EPSILON


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_dkd(temperature):
    tckd, nckd = formulas.dkd(*arrays(STUDENT, TEACHER), LABELS, temperature)
    loss = call("dkd", STUDENT, TEACHER, alpha=2.0, beta=3.0, temperature=temperature)
    assert loss.item() == pytest.approx(2 * tckd + 3 * nckd, rel=1e-9)
    loss = call("dkd", STUDENT, TEACHER, temperature=temperature)
    assert loss.item() == pytest.approx(tckd + 8 * nckd, rel=1e-9)


def test_dkd_is_kd_decoupled():
    """The paper's identity, one image at a time: KD = TCKD + (1 - p_y) NCKD."""
    for n in range(BATCH):
        one, other = ({"logits": each["logits"][n : n + 1]} for each in (STUDENT, TEACHER))
        label = LABELS[n : n + 1]
        p = (other["logits"] / 4).softmax(1)[0, label].item()
        loss = call("dkd", one, other, label, alpha=1.0, beta=1 - p)
        assert loss.item() == pytest.approx(call("kd", one, other).item(), rel=1e-9)


def test_dkd_stays_finite():
    """Where the label's probability is 1 to the last digit, and with two classes."""
    sure = {"logits": torch.tensor([[200.0, 0, -300]], requires_grad=True)}
    for label in (0, 2):
        loss = call("dkd", sure, {"logits": torch.zeros(1, 3)}, torch.tensor([label]))
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(sure["logits"].grad).all()
    two = [{"logits": torch.tensor([[2.0, x]])} for x in (0, 1)]
    tckd, _ = formulas.dkd(*arrays(*two), torch.tensor([1]), 4.0)
    assert call("dkd", *two, torch.tensor([1])).item() == pytest.approx(tckd, rel=1e-5)


@pytest.mark.parametrize("stage, tap", [(None, "stage1"), (1, "stage1"), (2, "stage2")])
def test_fitnet(stage, tap):
    module = adapter(STUDENT[tap].shape[1], TEACHER[tap].shape[1])
    loss = call("fitnet", STUDENT, TEACHER, module=module, stage=stage)
    expected = formulas.fitnet(*arrays(STUDENT, TEACHER), module, tap)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("larger", ["student", "teacher"])
@pytest.mark.parametrize("name", ["at", "fitnet"])
def test_maps_of_different_sizes(name, larger):
    """Blocks of 2x3 of the larger maps are averaged."""
    big, small = outputs(seed=5, size=(8, 18)), outputs(seed=6, width=2)
    averaged = dict(big)
    for tap in ("stage1", "stage2"):
        n, channels, height, width = big[tap].shape
        blocks = big[tap].reshape(n, channels, height // 2, 2, width // 3, 3)
        averaged[tap] = blocks.mean((3, 5))
    pairs = [(big, small), (averaged, small)]
    if larger == "teacher":
        pairs = [(b, a) for a, b in pairs]
    if name == "fitnet":  # the adapter's convolution commutes with averaging
        channels = [each["stage1"].shape[1] for each in pairs[0]]
        values = [call(name, *pair, module=adapter(*channels)).item() for pair in pairs]
    else:
        values = [call(name, *pair).item() for pair in pairs]
    assert values[0] == pytest.approx(values[1], rel=1e-10)


# What the losses have in common.


@pytest.mark.parametrize("name", OTHERS)
def test_nothing_is_lost_on_the_teacher_itself(name):
    student = {tap: value.clone().requires_grad_() for tap, value in TEACHER.items()}
    module = None
    if name == "fitnet":  # with the adapter that changes nothing
        channels = TEACHER["stage1"].shape[1]
        module = torch.nn.Conv2d(channels, channels, 1, bias=False, dtype=torch.float64)
        module.weight.data = torch.eye(channels, dtype=torch.float64)[:, :, None, None]
    loss = call(name, student, TEACHER, module=module)
    loss.backward()
    assert abs(loss.item()) < 1e-12
    for value in student.values():  # pkt's EPSILON moves its minimum by as little
        assert value.grad is None or value.grad.abs().max() < 1e-7
    assert call(name, STUDENT, TEACHER).item() > 1e-4


@pytest.mark.parametrize("name", OTHERS)
def test_the_order_of_the_batch_does_not_matter(name):
    order = torch.tensor([3, 5, 0, 2, 1, 4])
    student, teacher = (
        {tap: value[order] for tap, value in each.items()} for each in (STUDENT, TEACHER)
    )
    loss = call(name, STUDENT, TEACHER).item()
    assert call(name, student, teacher, LABELS[order]).item() == pytest.approx(loss, rel=1e-10)
    assert call(name, STUDENT, teacher).item() != pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("name", ["at", "pkt", "rkd", "sp"])
def test_scales_do_not_matter(name):
    """Nor, therefore, does it matter that a narrow network's activations are larger or smaller."""
    student = {tap: 3 * value for tap, value in STUDENT.items()}
    loss = call(name, STUDENT, TEACHER).item()
    assert call(name, student, TEACHER).item() == pytest.approx(loss, rel=1e-10)


@pytest.mark.parametrize("name", OTHERS)
def test_only_the_student_and_the_adapter_learn(name):
    student = {tap: value.clone().requires_grad_() for tap, value in STUDENT.items()}
    module = adapter(3, 6) if name == "fitnet" else None
    call(name, student, TEACHER, module=module).backward()
    taps = taps_of(name, losses.check(name, {}), student)
    assert list(taps) == STAGES.get(name, list(taps))
    for tap, value in student.items():
        assert (value.grad is not None and value.grad.abs().sum() > 0) == (tap in taps)
    assert all(value.grad is None for value in TEACHER.values())
    assert module is None or all(weight.grad.abs().sum() > 0 for weight in module.parameters())


@pytest.mark.parametrize("name", OTHERS)
def test_gradients(name):
    (*_, tap) = taps_of(name, losses.check(name, {}), STUDENT)
    # away from zero: a norm has no derivative there
    value = (STUDENT[tap] + 0.5).requires_grad_()

    def loss(x):
        return call(name, {**STUDENT, tap: x}, TEACHER)

    assert torch.autograd.gradcheck(loss, (value,))


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "dkd"])
def test_a_network_that_is_dead_has_finite_gradients(name):
    dead = {tap: torch.zeros_like(value).requires_grad_() for tap, value in STUDENT.items()}
    loss = call(name, dead, TEACHER)
    loss.backward()
    assert torch.isfinite(loss)
    for value in dead.values():
        assert value.grad is None or torch.isfinite(value.grad).all()
    assert torch.isfinite(call(name, STUDENT, dead))


# Options and taps.


def test_options_are_checked():
    assert losses.check("rkd", {}) == {"distance": 25.0, "angle": 50.0}
    assert losses.check("dkd", {}) == {"alpha": 1.0, "beta": 8.0, "temperature": 4.0}
    assert losses.check("fitnet", {}) == {"stage": None}
    assert losses.check("at", {}) == losses.check("sp", {}) == losses.check("pkt", {}) == {}
    for name, options, words in [
        ("rkd", {"angle": -1}, "'angle'"),
        ("dkd", {"temperature": 0}, "'temperature'"),
        ("dkd", {"gamma": 1}, "known: alpha, beta, temperature"),
        ("fitnet", {"stage": 0}, "'stage'"),
        ("fitnet", {"stage": 1.5}, "'stage'"),
        ("fitnet", {"adapter": 1}, "unknown option 'adapter'"),
        ("at", {"p": 2}, "'p'"),
    ]:
        with pytest.raises(StError, match=words):
            losses.check(name, options)


def test_taps_are_the_networks():
    five = [*(f"stage{n}" for n in range(1, 6)), "features", "logits"]
    assert taps_of("at", {}, five) == tuple(five[:5])
    assert taps_of("sp", {}, five) == ("stage5",)
    assert taps_of("fitnet", {"stage": None}, five) == ("stage3",)
    assert taps_of("fitnet", {"stage": 5}, five) == ("stage5",)
    ten = [f"stage{n}" for n in range(1, 11)]
    assert taps_of("sp", {}, ten) == ("stage10",)
    message = "loss 'fitnet': the network has no 'stage6'.*known: .*stage1, stage2"
    with pytest.raises(StError, match=message):
        taps_of("fitnet", {"stage": 6}, five)
    for name in ("at", "sp", "fitnet"):
        with pytest.raises(StError, match=f"'{name}': the network has no stages; known: features"):
            taps_of(name, {}, ["features", "logits"])


@pytest.mark.parametrize("name", ["at", "sp", "fitnet", "rkd", "pkt", "dkd"])
@pytest.mark.parametrize("family", ["vgg", "resnet", "preresnet", "densenet"])
def test_real_networks(family, name):
    """The taps that the families draw, of a pruned student and its teacher."""
    full = small_structure(family)
    rng = np.random.default_rng(0)
    part = pruned(full, {g: np.arange(-(-n.size // 2)) for g, n in full.graph.groups.items()})
    student, teacher = (network.build(s, random_tensors(s, rng)) for s in (part, full))
    batch = torch.randn(5, 1, 9, 11, generator=torch.Generator().manual_seed(0))
    taps = (*full.graph.taps,)
    ours, theirs = (
        {k: v.double() for k, v in each.eval()(batch, taps).items()} for each in (student, teacher)
    )
    theirs = {tap: value.detach() for tap, value in theirs.items()}
    loss = call(name, ours, theirs, torch.arange(5))
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert any(weight.grad is not None for weight in student.parameters())
