"""The two steps that residual networks repeat."""

from keras import layers

from models.backbones import units


def normalized(tensor, filters: int, kernel: int, *, names: tuple, relu: bool = True, **options):
    """Applies convolution, BatchNorm and ReLU.

    Args:
        tensor: `(B, H, W, C)`.
        filters: channels F of the result.
        kernel: side of the square kernel.
        names: of the convolution and of the BatchNorm.
        relu: False where a sum follows.
        options: see `units.convolution`.

    Returns:
        `(B, ⌈H / stride⌉, ⌈W / stride⌉, F)`.
    """
    conv, norm = names
    tensor = units.convolution(tensor, filters, kernel, name=conv, **options)
    tensor = units.normalize(tensor, name=norm)
    return layers.Activation("relu", name=f"{norm}.relu")(tensor) if relu else tensor


def add(tensors, path: str):
    """Returns the ReLU of a sum, `(B, H, W, C)`, in layers whose names begin with `path`."""
    total = layers.Add(name=f"{path}.sum")(tensors)
    return layers.Activation("relu", name=f"{path}.relu")(total)
