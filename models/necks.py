"""From the backbone's feature map to the embedding, the layer named "bottleneck".

A neck returns its tensors by name, for losses to be put on; "bottleneck" is the embedding
`(B, D)`, which export takes and normalises. What stands before BatchNorm has no bias, since the
mean takes it away again.
"""

from collections.abc import Callable

import keras

from models.erasing import BatchFeatureErasing
from models.pooling import build_pooling

DESCRIPTORS = {"S": "spoc", "M": "mac", "G": "gem"}
# The winners' p is fixed.
DESCRIPTOR_POOLINGS = {"S": "spoc", "M": "mac", "G": "gem_fixed"}


def build_neck(
    features,
    kind: str = "dense_swish",
    *,
    embedding_dim: int | None,
    pooling: str = "gap",
    **options,
) -> dict:
    """Builds a neck on a feature map.

    Args:
        features: symbolic tensor `(B, H, W, F)`.
        kind: "dense_swish", "linear", "linear_bn", "linear_bn_prelu", "bnneck", "cgd" or
            "global_local"; see the function of that name.
        embedding_dim: size D of "bottleneck".
        pooling: see `build_pooling`; "cgd" and "global_local" have their own.
        options: of that kind.

    Returns:
        Tensors by name, "bottleneck" `(B, D)` among them.

    Raises:
        ValueError: an unknown kind, or a size that it cannot have.
    """
    if kind not in NECKS:
        raise ValueError(f"neck: expected one of {', '.join(NECKS)}. Received: {kind!r}")
    if kind in POOLED:
        pooled = build_pooling(pooling)(features)  # (B, F)
        return POOLED[kind](pooled, embedding_dim, **options)
    return BRANCHED[kind](features, embedding_dim, **options)


def dense_swish(pooled, embedding_dim: int) -> dict:
    """Dense(D, swish): the first place of Google Landmark Retrieval 2020."""
    dense = keras.layers.Dense(embedding_dim, activation="swish", name="bottleneck")
    return {"bottleneck": dense(pooled)}


def linear(pooled, embedding_dim: int, *, use_bias: bool = True) -> dict:
    """Dense(D) without an activation."""
    dense = keras.layers.Dense(embedding_dim, use_bias=use_bias, name="bottleneck")
    return {"bottleneck": dense(pooled)}


def linear_bn(pooled, embedding_dim: int) -> dict:
    """Linear without bias → BatchNorm: the Taobao-live 2020 system."""
    return {"bottleneck": _batchnorm("bottleneck")(_linear(embedding_dim)(pooled))}


def linear_bn_prelu(pooled, embedding_dim: int) -> dict:
    """Linear → BatchNorm → PReLU: the first place of Google Landmark Recognition 2020.

    PReLU has one slope for all channels, 0.25 to begin with (He et al., arXiv:1502.01852).
    """
    values = _batchnorm("bottleneck_bn")(_linear(embedding_dim)(pooled))
    slope = keras.initializers.Constant(0.25)
    prelu = keras.layers.PReLU(alpha_initializer=slope, shared_axes=[1], name="bottleneck")
    return {"bottleneck": prelu(values)}


def bnneck(pooled, embedding_dim: int | None) -> dict:
    """BatchNorm between what metric losses and what the classifier see (arXiv:1903.07071).

    "feature" is for metric and centre losses. "bottleneck" is BatchNorm of it without β, for a
    classifier without bias; it is also what is exported, as the paper searches with it.

    Args:
        pooled: `(B, F)`.
        embedding_dim: size D; None or F is the pooled feature itself, as in the paper, else a
            linear layer without bias leads to it.

    Returns:
        "bottleneck" and "feature", `(B, D)` each.
    """
    feature = pooled
    if embedding_dim not in (None, pooled.shape[-1]):
        feature = _linear(embedding_dim)(pooled)  # (B, D)
    return {"bottleneck": _batchnorm("bottleneck", center=False)(feature), "feature": feature}


def cgd(features, embedding_dim: int, *, descriptors: str = "SMG", batchnorm: bool = True) -> dict:
    """Combination of multiple global descriptors (Jun et al., arXiv:1903.10663).

    Each of the means (S), maxima (M) and generalized means with p = 3 (G): pooling → Linear(F → k)
    with bias → BatchNorm → L2. They are joined, and L2-normalised as a whole.

    Args:
        features: `(B, H, W, F)`.
        embedding_dim: size D, k for each descriptor; 6,144 in the DIGIX 2020 system with "SMG".
        descriptors: of S, M and G, each at most once, in the order in which they are joined.
        batchnorm: as the DIGIX 2020 system has it; False is the paper's.

    Returns:
        "bottleneck" `(B, D)`, and "spoc", "mac", "gem" `(B, k)` for those that there are, all of
        length 1. The paper puts its classification loss on the first of them alone.

    Raises:
        ValueError: other letters, or a D that does not divide by their number.
    """
    known = set(descriptors) <= DESCRIPTORS.keys() and len(set(descriptors)) == len(descriptors)
    if not descriptors or not known:
        raise ValueError(f"descriptors: expected letters of 'SMG'. Received: {descriptors!r}")
    if embedding_dim % len(descriptors):
        raise ValueError(
            f"embedding_dim: expected a multiple of the {len(descriptors)} descriptors. "
            f"Received: {embedding_dim}"
        )
    outputs = {}
    for letter in descriptors:
        name = DESCRIPTORS[letter]
        values = build_pooling(DESCRIPTOR_POOLINGS[letter], f"pooling_{name}")(features)
        values = _linear(embedding_dim // len(descriptors), f"linear_{name}", True)(values)
        if batchnorm:
            values = _batchnorm(f"bn_{name}")(values)
        outputs[name] = _unit(name)(values)  # (B, k)
    joined = _join("descriptors", list(outputs.values()))
    return {"bottleneck": _unit("bottleneck")(joined), **outputs}


def global_local(
    features,
    embedding_dim: int,
    *,
    global_dim: int | None = None,
    erase_height: float = 1 / 3,
    erase_width: float = 1.0,
) -> dict:
    """Two branches, of which one must do without a part of the image (BDB, arXiv:1811.07130).

    Global: mean → reduction. Local: residual bottleneck block → batch feature erasing → maximum →
    reduction. A reduction is Linear → BatchNorm → ReLU. Each branch's feature is for its metric
    loss; BatchNorm of it without β for its classifier without bias, as in `bnneck`.

    Args:
        features: `(B, H, W, F)`.
        embedding_dim: size D of both features together.
        global_dim: of them the global one's; None is half.
        erase_height, erase_width: size of the erased rectangle in shares of the map's.

    Returns:
        "global" and "local", the features; "global_bn" and "local_bn" for the classifiers; and
        "bottleneck" `(B, D)`, the two features one after the other.

    Raises:
        ValueError: a global part that leaves nothing to the local one.
    """
    first = embedding_dim // 2 if global_dim is None else global_dim
    if not 0 < first < embedding_dim:
        raise ValueError(
            f"global_dim: expected above 0, below {embedding_dim}. Received: {global_dim}"
        )
    pooled = {"global": build_pooling("gap", "pooling_global")(features)}
    values = _residual_block(features)  # (B, H, W, F)
    values = BatchFeatureErasing(erase_height, erase_width, name="erasing")(values)
    pooled["local"] = build_pooling("mac", "pooling_local")(values)  # (B, F)
    outputs = {}
    for name, size in (("global", first), ("local", embedding_dim - first)):
        reduced = _batchnorm(f"{name}_reduction_bn")(
            _linear(size, f"{name}_reduction")(pooled[name])
        )
        outputs[name] = keras.layers.ReLU(name=name)(reduced)
        outputs[f"{name}_bn"] = _batchnorm(f"{name}_bn", center=False)(outputs[name])
    return {"bottleneck": _join("bottleneck", [outputs["global"], outputs["local"]]), **outputs}


POOLED: dict[str, Callable[..., dict]] = {
    "dense_swish": dense_swish,
    "linear": linear,
    "linear_bn": linear_bn,
    "linear_bn_prelu": linear_bn_prelu,
    "bnneck": bnneck,
}
BRANCHED: dict[str, Callable[..., dict]] = {"cgd": cgd, "global_local": global_local}
NECKS = (*POOLED, *BRANCHED)


def _linear(size: int, name: str = "bottleneck_linear", use_bias: bool = False):
    return keras.layers.Dense(size, use_bias=use_bias, name=name)


def _batchnorm(name: str, *, center: bool = True):
    # PyTorch's numbers, with which all these systems were trained.
    return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, center=center, name=name)


def _unit(name: str):
    return keras.layers.UnitNormalization(axis=-1, dtype="float32", name=name)


def _join(name: str, tensors: list):
    if len(tensors) == 1:
        return keras.layers.Identity(name=name)(tensors[0])
    return keras.layers.Concatenate(name=name)(tensors)


def _residual_block(features):
    """ResNet's bottleneck block, F → F/4 → F/4 → F, with the input added."""
    channels = features.shape[-1]
    values = features
    for number, (size, kernel) in enumerate(
        [(channels // 4, 1), (channels // 4, 3), (channels, 1)]
    ):
        name = f"local_{number + 1}"
        conv = keras.layers.Conv2D(
            size, kernel, padding="same", use_bias=False, name=f"{name}_conv"
        )
        values = _batchnorm(f"{name}_bn")(conv(values))
        if number < 2:
            values = keras.layers.ReLU(name=f"{name}_relu")(values)
    return keras.layers.ReLU(name="local_relu")(
        keras.layers.Add(name="local_add")([values, features])
    )
