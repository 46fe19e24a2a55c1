"""Activations whose gradient keeps less than the backend's own."""

from keras import ops


@ops.custom_gradient
def swish(x):
    """Returns x·σ(x), keeping x alone for the gradient (Ramachandran et al., arXiv:1710.05941).

    Args:
        x: any shape, float; the gradient is computed in float32 and given in the type of `x`.
    """

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        wide = ops.cast(x, "float32")
        gate = ops.sigmoid(wide)
        slope = gate * (1.0 + wide * (1.0 - gate))
        return ops.cast(ops.cast(upstream, "float32") * slope, x.dtype)

    return x * ops.sigmoid(x), gradient
