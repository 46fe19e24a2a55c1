"""Vision transformer, whose patches are the feature map (Dosovitskiy et al., arXiv:2010.11929).

Neither keras.applications nor keras-cv has it with weights, and keras-hub is an extra. Layers are
named as in timm's `vit_base_patch16_224`, whose weights fit.
"""

import keras
from keras import layers, ops

EPSILON = 1e-6


def build_vit(
    *,
    patch: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    grid: int = 14,
    name: str = "backbone",
) -> keras.Model:
    """Builds a vision transformer; the default is ViT-B/16.

    Args:
        patch: side of a patch in pixels.
        dim: channels F of a patch, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        grid: patches on a side at which the positions are learned; for images of other sizes
            they are interpolated.
        name: the model's.

    Returns:
        Model: `(B, S, S, 3)` normalised image → `(B, S/patch, S/patch, F)`, the patches after the
        last normalisation; the class token attends, but is not part of it.

    Raises:
        ValueError: `dim` is no multiple of `heads`.

    Reference:
        Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929.
    """
    if dim % heads:
        raise ValueError(f"dim: expected a multiple of heads={heads}. Received: {dim}")
    images = keras.Input((None, None, 3))
    patches = layers.Conv2D(dim, patch, patch, name="patch_embed.proj")(images)  # (B, h, w, F)
    x = PositionedTokens(grid, name="tokens")(patches)  # (B, 1 + h·w, F)
    for i in range(depth):
        x = _block(x, heads, f"blocks.{i}")
    x = _normalize(x, "norm")
    return keras.Model(images, PatchMap(name="patches")([x, patches]), name=name)


def _block(tensor, heads: int, path: str):
    """Self-attention and a two-layer network, each added to its input, `(B, N, F)`."""
    dim = tensor.shape[-1]
    x = _normalize(tensor, f"{path}.norm1")
    x = layers.Dense(3 * dim, name=f"{path}.attn.qkv")(x)
    x = Attention(heads, name=f"{path}.attn")(x)
    x = layers.Dense(dim, name=f"{path}.attn.proj")(x)
    tensor = layers.Add(name=f"{path}.add1")([x, tensor])
    x = _normalize(tensor, f"{path}.norm2")
    x = layers.Dense(4 * dim, name=f"{path}.mlp.fc1")(x)
    x = layers.Activation("gelu", name=f"{path}.mlp.act")(x)
    x = layers.Dense(dim, name=f"{path}.mlp.fc2")(x)
    return layers.Add(name=f"{path}.add2")([x, tensor])


def _normalize(tensor, name: str):
    return layers.LayerNormalization(epsilon=EPSILON, name=name)(tensor)


@keras.saving.register_keras_serializable(package="waymark")
class Attention(keras.layers.Layer):
    """Scaled dot-product attention of several heads; the softmax is in float32.

    Args:
        heads: number of heads.

    Call arguments:
        tensor: queries, keys and values beside each other.

    Input shape:
        `(B, N, 3·F)`, F a multiple of the number of heads.

    Output shape:
        `(B, N, F)`.

    Example:
        >>> Attention(2)(keras.ops.ones((1, 5, 12))).shape
        TensorShape([1, 5, 4])

    Reference:
        Vaswani et al., Attention is all you need, arXiv:1706.03762.
    """

    def __init__(self, heads: int, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, tensor):
        batch, count, _ = ops.shape(tensor)
        size = tensor.shape[-1] // (3 * self.heads)
        tensor = ops.reshape(tensor, (batch, count, 3, self.heads, size))
        query, key, value = ops.unstack(tensor, 3, axis=2)  # (B, N, heads, size) each
        logits = ops.einsum("bnhd,bmhd->bhnm", query * size**-0.5, key)
        shares = ops.softmax(ops.cast(logits, "float32"))  # (B, heads, N, N)
        result = ops.einsum("bhnm,bmhd->bnhd", ops.cast(shares, value.dtype), value)
        return ops.reshape(result, (batch, count, self.heads * size))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self):
        return {**super().get_config(), "heads": self.heads}


@keras.saving.register_keras_serializable(package="waymark")
class PositionedTokens(keras.layers.Layer):
    """Rows of patches as one list behind a class token, each with its position added.

    The positions are learned on a square grid. For another one they are interpolated by cubic
    convolution, over more positions where the grid becomes coarser, as timm does it.

    Args:
        grid: patches on a side of the grid on which the positions are learned.

    Call arguments:
        patches: feature map.

    Input shape:
        `(B, h, w, F)`.

    Output shape:
        `(B, 1 + h·w, F)`.

    Example:
        >>> PositionedTokens(4)(keras.ops.ones((1, 3, 5, 8))).shape
        TensorShape([1, 16, 8])

    Reference:
        Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929, section 3.1.
    """

    torch_names = {"class_token": "cls_token", "positions": "pos_embed"}  # noqa: RUF012

    def __init__(self, grid: int, **kwargs):
        super().__init__(**kwargs)
        self.grid = grid

    def build(self, input_shape):
        dim = input_shape[-1]
        # Not rounded to bfloat16 before they are interpolated.
        options = {
            "initializer": keras.initializers.TruncatedNormal(stddev=0.02),
            "autocast": False,
        }
        self.class_token = self.add_weight((1, 1, dim), name="class_token", **options)
        self.positions = self.add_weight((1, 1 + self.grid**2, dim), name="positions", **options)

    def call(self, patches):
        batch, height, width, dim = ops.shape(patches)
        first, rest = ops.split(self.positions, [1], axis=1)
        rest = ops.reshape(rest, (self.grid, self.grid, dim))
        rows, columns = _interpolation(self.grid, height), _interpolation(self.grid, width)
        rest = ops.einsum("hi,wj,ijf->hwf", rows, columns, rest)  # (h, w, F)
        patches = patches + ops.cast(rest, patches.dtype)
        token = self.class_token + first  # (1, 1, F)
        token = ops.cast(ops.broadcast_to(token, (batch, 1, dim)), patches.dtype)
        return ops.concatenate([token, ops.reshape(patches, (batch, height * width, dim))], axis=1)

    def compute_output_shape(self, input_shape):
        batch, height, width, dim = input_shape
        count = None if None in (height, width) else 1 + height * width
        return (batch, count, dim)

    def get_config(self):
        return {**super().get_config(), "grid": self.grid}


@keras.saving.register_keras_serializable(package="waymark")
class PatchMap(keras.layers.Layer):
    """The list of patches as rows again, without the class token.

    Call arguments:
        inputs: tokens, and the feature map whose height and width the result has.

    Input shape:
        `(B, 1 + h·w, F)` and `(B, h, w, …)`.

    Output shape:
        `(B, h, w, F)`.

    Example:
        >>> PatchMap()([keras.ops.ones((1, 16, 8)), keras.ops.ones((1, 3, 5, 8))]).shape
        TensorShape([1, 3, 5, 8])

    Reference:
        Dosovitskiy et al., An image is worth 16x16 words, arXiv:2010.11929.
    """

    def call(self, inputs):
        tokens, patches = inputs
        batch, height, width, _ = ops.shape(patches)
        return ops.reshape(tokens[:, 1:], (batch, height, width, tokens.shape[-1]))

    def compute_output_shape(self, input_shape):
        tokens, patches = input_shape
        return (*patches[:-1], tokens[-1])


def _interpolation(before: int, after):
    """Returns the shares of `before` positions in `after` others on the same length.

    Keys' cubic convolution with a = -0.5, wider where there are fewer positions than before.

    Returns:
        `(after, before)` float32, rows that sum to 1.
    """
    scale = before / ops.cast(after, "float32")
    stretch = ops.maximum(scale, 1.0)
    centers = (ops.cast(ops.arange(after), "float32") + 0.5) * scale
    places = ops.cast(ops.arange(before), "float32") + 0.5
    x = ops.abs(ops.expand_dims(centers, 1) - places) / stretch
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    shares = ops.where(x < 1.0, near, ops.where(x < 2.0, far, 0.0))
    return shares / ops.sum(shares, axis=1, keepdims=True)
