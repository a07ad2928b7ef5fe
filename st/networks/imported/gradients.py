"""Gradients that a module says itself, which torch.export leaves out."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import Function
from torch.autograd.function import BackwardCFunction
from torch.func import functional_call
from torch.nn.modules._functions import BackwardHookFunction
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle


@contextmanager
def computed_again() -> Iterator[None]:
    """What is computed again in the backward pass is called as it is."""

    def apply(cls, *args, **kwargs):
        if cls is CheckpointFunction:
            called, _, *inputs = args
            return called(*inputs)
        return super(Function, cls).apply(*args, **kwargs)

    with patch.object(Function, "apply", classmethod(apply)):
        yield


def own_gradients(module: nn.Module, images: torch.Tensor) -> list[str]:
    """What is to be said of gradients that the module says itself, by functions with a backward
    and by hooks: torch.export draws what is computed and leaves these out. They are found in the
    graph of a pass on tensors without data, however they were called."""
    hooked = [n for n, p in module.named_parameters() if p._backward_hooks]
    hooked += [
        f"module {n or type(module).__name__}"
        for n, part in module.named_modules()
        if part._backward_hooks or part._backward_pre_hooks
    ]

    def register_hook(tensor, hook):
        hooked.append(f"{getattr(hook, '__qualname__', hook)} in its forward")
        return RemovableHandle(OrderedDict())

    held = {  # each place once, tied tensors in all of theirs
        f"{prefix}.{name}".removeprefix("."): tensor
        for prefix, part in module.named_modules()
        for name, tensor in (*part._parameters.items(), *part._buffers.items())
        if tensor is not None
    }
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode, patch.object(torch.Tensor, "register_hook", register_hook):
        fakes = {id(tensor): mode.from_tensor(tensor) for tensor in held.values()}
        given: dict[str, Any] = {name: fakes[id(tensor)] for name, tensor in held.items()}
        output = functional_call(module, given, (mode.from_tensor(images),), tie_weights=False)
    pending: list[Any] = [t.grad_fn for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
    seen: set[Any] = set()
    names: list[str] = []
    while pending:
        made = pending.pop()
        if made is None or made in seen:
            continue
        seen.add(made)
        called = (
            getattr(made, "_forward_cls", None) if isinstance(made, BackwardCFunction) else None
        )
        if called not in (None, BackwardHookFunction):
            names.append(called.__name__)
        pending += [before for before, _ in made.next_functions]
    notes = [
        f"the gradient of {name} is that of its forward, not its backward"
        for name in sorted(set(names))
    ]
    if hooked:
        notes.append(f"hooks on gradients are left out: {', '.join(dict.fromkeys(hooked))}")
    return notes
