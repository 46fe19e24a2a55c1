"""Backbones of keras.applications with their weights; nothing is normalised inside of them."""

import keras

# Their own names, which keras.applications must be told: it takes sizes and files from them.
RESNETS = {"ResNet50": "resnet50", "ResNet101": "resnet101", "ResNet152": "resnet152"}
EFFICIENTNETS = {
    f"EfficientNetV2{size}": f"efficientnetv2-{size.lower()}"
    for size in ("B0", "B1", "B2", "B3", "S", "M", "L")
}
CONVNEXTS = {
    f"ConvNeXt{size}": f"convnext_{size.lower()}"
    for size in ("Tiny", "Small", "Base", "Large", "XLarge")
}
DROP_CONNECT_RATE = 0.2  # keras.applications' own for EfficientNetV2

# Pixels in [0, 1]. ResNet's weights are Caffe's: means of 0 … 255 are subtracted, no division.
CAFFE = (tuple(mean / 255 for mean in (123.68, 116.779, 103.939)), (1 / 255,) * 3)
# x / 128 − 1 of pixels 0 … 255.
BY_128 = ((128 / 255,) * 3, (128 / 255,) * 3)


def build_resnet_v1(which: str, *, weights: str | None = None) -> keras.Model:
    """Builds ResNet-50, 101 or 152 as first published, the stride in a block's first convolution.

    The published weights expect blue first; the first kernel is turned round, so that the network
    takes red, green and blue as all others do.

    Args:
        which: "ResNet50", "ResNet101" or "ResNet152".
        weights: "imagenet" or None (random).

    Returns:
        Model named "backbone": `(B, S, S, 3)` → `(B, S/32, S/32, 2048)`.

    Reference:
        He et al., Deep residual learning for image recognition, arXiv:1512.03385.
    """
    backbone = _build(which, RESNETS[which], weights)
    if weights is not None:
        reverse_channels(backbone.get_layer("conv1_conv"))
    return backbone


def reverse_channels(convolution: keras.layers.Conv2D) -> None:
    """Makes a convolution that takes blue, green, red one that takes red, green, blue."""
    convolution.kernel.assign(keras.ops.flip(convolution.kernel, axis=2))


def build_efficientnet_v2(
    which: str, *, drop_connect_rate: float = DROP_CONNECT_RATE, weights: str | None = None
) -> keras.Model:
    """Builds an EfficientNetV2.

    Args:
        which: "EfficientNetV2" and B0 … B3, S, M or L.
        drop_connect_rate: stochastic depth at the deepest block.
        weights: "imagenet" or None (random).

    Returns:
        Model named "backbone": `(B, S, S, 3)` → `(B, S/32, S/32, F)`.

    Reference:
        Tan and Le, EfficientNetV2: smaller models and faster training, arXiv:2104.00298.
    """
    backbone = _build(which, EFFICIENTNETS[which], weights, include_preprocessing=False)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate *= drop_connect_rate / DROP_CONNECT_RATE
    return backbone


def build_convnext(which: str, *, weights: str | None = None) -> keras.Model:
    """Builds a ConvNeXt, whose feature map is layer-normalised at every pixel.

    Args:
        which: "ConvNeXt" and Tiny, Small, Base, Large or XLarge.
        weights: "imagenet" or None (random).

    Returns:
        Model named "backbone": `(B, S, S, 3)` → `(B, S/32, S/32, F)`.

    Reference:
        Liu et al., A ConvNet for the 2020s, arXiv:2201.03545.
    """
    return _build(which, CONVNEXTS[which], weights, include_preprocessing=False)


def _build(which: str, name: str, weights: str | None, **options) -> keras.Model:
    build = getattr(keras.applications, which)
    try:
        backbone = build(
            include_top=False, weights=weights, input_shape=(None, None, 3), name=name, **options
        )
    except Exception as error:
        if "URL fetch failure" not in str(error):
            raise
        raise FileNotFoundError(  # get_file raises a bare Exception, with the address
            f"could not download the weights of {name} ({error}). Fetch the file on another "
            "machine and put it in ~/.keras/models, or train from random weights with "
            "--set model.weights=None"
        ) from error
    backbone.name = "backbone"
    return backbone
