"""What the operators of a running network do."""

# What operators do, by a part of their names; the first that fits.
KINDS = {
    "convolution": ("conv",),
    "matrix product": ("mm", "matmul", "dot", "attention", "linear", "einsum"),
    "normalisation": ("norm",),
    "selection of channels": ("gather", "index", "take"),
    "concatenation": ("cat", "stack"),
    "pooling": ("pool", "mean", "amax"),
    "activation": (
        "relu", "hardtanh", "gelu", "silu", "sigmoid", "tanh", "elu", "softmax", "hardswish",
        "clamp", "mish", "softplus",
    ),
    "sum or product": ("add", "mul", "sub", "div"),
}  # fmt: skip
OTHER = "moving data"
WITH_MACS = ("convolution", "matrix product")


def kind_of(name: str) -> str:
    """What an operator does."""
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return OTHER
