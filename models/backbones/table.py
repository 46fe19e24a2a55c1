"""The table of backbones: name → builder, published weights, input normalisation, parameters.

Keras' own where keras.applications has them with weights; ours otherwise, with the names of a
public PyTorch module, whose weights fit. "resnet50" is PyTorch's form (stride in the 3 × 3
convolution, last stride of choice); "resnet50-v1" that of keras.applications, with its weights.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import keras

from models.backbones import applications, conversion, dla, efficientnets, fishnet, hrnet
from models.backbones.resnet import build_resnet
from models.backbones.vit import build_vit

Numbers = tuple[float, float, float]

# Channel statistics of pixels in [0, 1].
IMAGENET: tuple[Numbers, Numbers] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF: tuple[Numbers, Numbers] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One backbone.

    Attributes:
        build: takes `weights` (one of `published` or None) and `options` by keyword.
        parameters: trainable parameters as published, with the classifier of 1000 classes.
        options: what else of `build_backbone` it takes.
        published: sets of weights that are downloaded.
        torch: the public PyTorch module whose weights fit; "" where there is none.
        ignore: beginnings of the names of what that module has besides.
        normalization: mean and standard deviation of red, green, blue in [0, 1].
    """

    build: Callable[..., keras.Model]
    parameters: int
    options: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    torch: str = ""
    ignore: tuple[str, ...] = conversion.CLASSIFIERS
    normalization: tuple[Numbers, Numbers] = IMAGENET


def _efficientnets() -> dict[str, Backbone]:
    counts = (5288548, 7794184, 9109994, 12233232, 19341616, 30389784, 43040704, 66347960)
    table = {
        name: Backbone(
            functools.partial(efficientnets.build_efficientnet, name),
            count,
            options=("drop_connect_rate",),
            published=tuple(efficientnets.ADDRESSES),
        )
        for name, count in zip(efficientnets.COEFFICIENTS, counts, strict=True)
    }
    table["efficientnet"] = Backbone(
        functools.partial(efficientnets.build_efficientnet, "efficientnet"),
        counts[0],  # with width and depth 1
        options=("width", "depth", "drop_connect_rate"),
    )
    return table


def _applications() -> dict[str, Backbone]:
    v2 = (7139704, 8141052, 10096086, 14358406, 21458488, 54139356, 118515272)
    convnext = (28589128, 50223688, 88591464, 197767336, 350196968)
    v1 = (25583592, 44601832, 60268520)
    table = {}
    for (which, name), count in zip(applications.EFFICIENTNETS.items(), v2, strict=True):
        table[name] = Backbone(
            functools.partial(applications.build_efficientnet_v2, which),
            count,
            options=("drop_connect_rate",),
            published=("imagenet",),
            normalization=IMAGENET if "-b" in name else applications.BY_128,
        )
    for (which, name), count in zip(applications.CONVNEXTS.items(), convnext, strict=True):
        build = functools.partial(applications.build_convnext, which)
        table[name.replace("_", "-")] = Backbone(build, count, published=("imagenet",))
    for (which, name), count in zip(applications.RESNETS.items(), v1, strict=True):
        table[f"{name}-v1"] = Backbone(
            functools.partial(applications.build_resnet_v1, which),
            count,
            published=("imagenet",),
            normalization=applications.CAFFE,
        )
    return table


def _residual() -> dict[str, Backbone]:
    b50, b101, b152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
    resnext = {"groups": 32, "base_width": 4, "squeeze": True}
    res2net = {"base_width": 26, "scales": 4}
    entries = {
        "resnet50": (b50, {}, 25557032, "torchvision resnet50"),
        "resnet101": (b101, {}, 44549160, "torchvision resnet101"),
        "resnet152": (b152, {}, 60192808, "torchvision resnet152"),
        "resnet50-ibn-a": (b50, {"ibn": True}, 25557032, "IBN-Net resnet50_ibn_a"),
        "resnet101-ibn-a": (b101, {"ibn": True}, 44549160, "IBN-Net resnet101_ibn_a"),
        "se-resnext50": (b50, resnext, 27559896, "timm seresnext50_32x4d"),
        "se-resnext101": (b101, resnext, 48955416, "timm seresnext101_32x4d"),
        "res2net101": (b101, res2net, 45206688, "timm res2net101_26w_4s"),
    }
    return {
        name: Backbone(
            functools.partial(_build_residual, blocks, **kind),
            count,
            options=("width", "depth", "last_stride"),
            torch=torch,
        )
        for name, (blocks, kind, count, torch) in entries.items()
    }


def _build_residual(
    blocks: Sequence[int],
    *,
    width: float | None,
    depth: float | None,
    last_stride: int,
    weights: None,
    **kind,
) -> keras.Model:
    return build_resnet(
        [_scaled(count, depth) for count in blocks],
        widths=[_scaled(channels, width, 16) for channels in (64, 128, 256, 512)],
        stem=_scaled(64, width, 8),
        last_stride=last_stride,
        **kind,
    )


def _build_vit(*, width: float | None, depth: float | None, weights: None) -> keras.Model:
    heads = _scaled(12, width)
    return build_vit(dim=64 * heads, heads=heads, depth=_scaled(12, depth))


def _scaled(size: int, factor: float | None, step: int = 1) -> int:
    """Returns the multiple of `step` nearest to size · factor, at least one step."""
    return size if factor is None else max(step, round(size * factor / step) * step)


def _others() -> dict[str, Backbone]:
    hrnets = {
        f"hrnet-w{width}": Backbone(
            functools.partial(_without_weights, hrnet.build_hrnet, width),
            count,
            torch=f"timm hrnet_w{width}",
            ignore=hrnet.IGNORED,
        )
        for width, count in ((18, 21299004), (30, 37712220))
    }
    return {
        **hrnets,
        "dla102x": Backbone(
            functools.partial(_without_weights, dla.build_dla102x),
            26309272,
            torch="timm dla102x",
            ignore=dla.IGNORED,
        ),
        "fishnet99": Backbone(
            functools.partial(_without_weights, fishnet.build_fishnet99),
            16628904,
            torch="FishNet fishnet99",
            ignore=fishnet.IGNORED,
        ),
        "vit-b16": Backbone(
            _build_vit,
            86567656,
            options=("width", "depth"),
            torch="timm vit_base_patch16_224",
            normalization=HALF,
        ),
    }


def _without_weights(build: Callable, *args, weights: None) -> keras.Model:
    return build(*args)


TABLE = {**_efficientnets(), **_applications(), **_residual(), **_others()}
NAMES = tuple(TABLE)


def build_backbone(
    name: str,
    *,
    width: float | None = None,
    depth: float | None = None,
    drop_connect_rate: float = 0.2,
    weights: str | None = None,
    last_stride: int = 2,
) -> keras.Model:
    """Builds a backbone of the table; nothing is normalised inside, see `normalization`.

    Args:
        name: one of `NAMES`.
        width, depth: multipliers of the channels and repeats; "efficientnet" needs them, the
            residual networks in PyTorch's form and "vit-b16" can have them.
        drop_connect_rate: stochastic depth at the deepest block of an EfficientNet or
            EfficientNetV2; the others have none.
        weights: "imagenet" or "noisy-student" where the table has them; a file that Keras wrote,
            as tools/convert_weights.py does; a `.safetensors` or `.npz` file of the PyTorch
            module that the table names; None is random.
        last_stride: 1 has the last stage of a residual network in PyTorch's form run at the
            resolution of the one before.

    Returns:
        Model named "backbone": `(B, S, S, 3)` normalised image → `(B, S/32, S/32, F)`, or S/16
        with `last_stride` 1 and for the patches of "vit-b16".

    Raises:
        FileNotFoundError: there is no such file, or the download failed.
        ValueError: no such name, an option or weights that this backbone does not have, or a
            file that does not fit.

    Example:
        >>> build_backbone("resnet50", last_stride=1).compute_output_shape((1, 256, 256, 3))
        (1, 16, 16, 2048)
    """
    entry = _entry(name)
    given = {
        "width": width,
        "depth": depth,
        "last_stride": last_stride,
        "drop_connect_rate": drop_connect_rate,
    }
    _refuse_options(name, entry, given)
    options = {option: given[option] for option in entry.options}
    is_file = weights is not None and not _is_published(name, entry, weights)
    backbone = entry.build(weights=None if is_file else weights, **options)
    if is_file:
        conversion.load_weights(backbone, weights, ignore=entry.ignore if entry.torch else None)
    return backbone


def normalization(name: str) -> tuple[Numbers, Numbers]:
    """Returns mean and standard deviation of each channel that a backbone's weights expect.

    Args:
        name: one of `NAMES`.

    Returns:
        Three numbers each, of red, green and blue in [0, 1]: the input is (pixel − mean) / std.
    """
    return _entry(name).normalization


def _entry(name: str) -> Backbone:
    if name not in TABLE:
        raise ValueError(f"backbone: expected one of {NAMES}. Received: {name!r}")
    return TABLE[name]


def _refuse_options(name: str, entry: Backbone, given: dict) -> None:
    for option, default in (("width", None), ("depth", None), ("last_stride", 2)):
        if given[option] != default and option not in entry.options:
            able = [other for other in NAMES if option in TABLE[other].options]
            raise ValueError(
                f"{option}={given[option]!r}: {name!r} has no such choice; those that have: {able}"
            )


def _is_published(name: str, entry: Backbone, weights: str) -> bool:
    sets = {source for other in TABLE.values() for source in other.published}
    if weights not in sets:
        return False
    if weights not in entry.published:
        names = [other for other in NAMES if weights in TABLE[other].published]
        raise ValueError(
            f"weights={weights!r}: published for {', '.join(names)} only; others take a file, see "
            f"tools/convert_weights.py. Received: {name!r}"
        )
    return True
