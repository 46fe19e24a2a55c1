"""Looks at the bytes of one image: can TensorFlow decode them, and do they have to change?

JPEG and PNG files pass through unchanged: whatever Pillow decodes here of the two,
`tf.io.decode_image(channels=3)` decodes too (tests/test_images.py). Pixels keep the order in which
they are stored; the Exif orientation is ignored, as TensorFlow ignores it.
"""

import dataclasses
import io

import numpy as np
from PIL import Image

from input_pipeline.schema import MAX_PIXELS
from tfrecords_tools.conversion import jpeg_header

ZERO_BYTES = "zero bytes"
NOT_AN_IMAGE = "not an image"
TRUNCATED = "truncated"
DAMAGED = "damaged"
TOO_MANY_PIXELS = "too many pixels"
UNSUPPORTED_MODE = "unsupported mode"
UNSUPPORTED_JPEG = "unsupported kind of JPEG"
HEIC = "HEIC or AVIF image"

UNCHANGED = "unchanged"
CONVERTED = "converted"
SHRUNK = "shrunk"

CONVERTED_QUALITY = 95

_LONGEST_SIDE = 65_500  # of JPEG, in libjpeg and so in TensorFlow

# Others are either no photographs or, as EPS, run a program to be decoded. Many cameras write MPO,
# a JPEG file with a second image behind the first: Pillow opens it as JPEG and calls it MPO.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_STORED_FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png"}
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", *_SIXTEEN_BITS)
_JPEG_END = b"\xff\xd9"
_HEIC_BRANDS = (b"heic", b"heix", b"heif", b"mif1", b"avif", b"avis")
_PNG_END = b"IEND\xaeB`\x82"


class RejectedImageError(ValueError):
    """An image that is left out; the message is the short reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of one good image.

    Attributes:
        format: "jpeg" or "png", as it will be stored.
        width: pixels, as it will be stored.
        height: pixels, as it will be stored.
        change: UNCHANGED, CONVERTED (another format) or SHRUNK (larger than `max_side`).
        bytes: size of the file that was inspected.
    """

    format: str
    width: int
    height: int
    change: str
    bytes: int


def inspect(
    data: bytes, *, max_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> Inspection:
    """Decodes an image as cheaply as finds damage in every part of the file.

    Args:
        data: the file's bytes.
        max_side: the longer side above which the image will be shrunk.
        max_pixels: width x height above which it is refused before it is decoded.

    Raises RejectedImageError with the reason.
    """
    if not data:
        raise RejectedImageError(ZERO_BYTES)
    if jpeg_header.is_undecodable(data):
        raise RejectedImageError(UNSUPPORTED_JPEG)
    image = _open(data, max_pixels)
    stored_format = _STORED_FORMATS.get(image.format)
    known = describe(image.size, len(data), max_side, stored_format)
    sides = image.size if stored_format == "jpeg" else (known.width, known.height)
    if "jpeg" in (stored_format, known.format) and max(sides) > _LONGEST_SIDE:
        raise RejectedImageError(TOO_MANY_PIXELS)
    _decode(image, data)
    if image.mode not in _MODES:
        raise RejectedImageError(f"{UNSUPPORTED_MODE} {image.mode}")
    return known


def is_allowed(width: int, height: int) -> bool:
    """Whether TensorFlow decodes a JPEG file of this size in bounded memory."""
    return width * height <= MAX_PIXELS and max(width, height) <= _LONGEST_SIDE


def describe(
    pixels: tuple[int, int], size: int, max_side: int | None, stored_format: str | None = "jpeg"
) -> Inspection:
    """Returns what is known of a good image.

    Args:
        pixels: (width, height) of the file.
        size: bytes of the file.
        max_side: the longer side above which the image will be shrunk.
        stored_format: "jpeg" or "png" if it can be stored as it is, else None.
    """
    if max_side is not None and max(pixels) > max_side:
        return Inspection("jpeg", *shrunk_size(*pixels, max_side), SHRUNK, size)
    change = CONVERTED if stored_format is None else UNCHANGED
    return Inspection(stored_format or "jpeg", *pixels, change, size)


def stored_bytes(data: bytes, inspection: Inspection, *, quality: int) -> bytes:
    """Returns the bytes to store: the file's own, or a JPEG file if the image has to change.

    `quality` is that of shrunk images; others that are converted keep CONVERTED_QUALITY.
    Raises RejectedImageError if the image has to be decoded and cannot be.
    """
    if inspection.change == UNCHANGED:
        return data
    try:
        return _to_jpeg(data, inspection, quality)
    except Exception as error:  # damage raises errors of many kinds
        raise RejectedImageError(DAMAGED) from error


def _to_jpeg(data: bytes, inspection: Inspection, quality: int) -> bytes:
    size = (inspection.width, inspection.height)
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        if inspection.change == SHRUNK:
            # A JPEG file is decoded at 1/2, 1/4 or 1/8 where that is at least twice the target.
            image.draft(None, (2 * size[0], 2 * size[1]))
        pixels = to_8_bits(image)
    if pixels.size != size:
        pixels = pixels.resize(size, Image.Resampling.BICUBIC)  # antialiased, as all of Pillow's
    buffer = io.BytesIO()
    quality = quality if inspection.change == SHRUNK else CONVERTED_QUALITY
    pixels.save(buffer, "JPEG", quality=quality, comment=b"")
    return buffer.getvalue()


def decode_gray(data: bytes, *, at_least: tuple[int, int]) -> Image.Image:
    """Returns an image as "L"; a JPEG file is decoded at 1/2, 1/4 or 1/8 if that is large enough.

    Raises RejectedImageError if it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.draft("L", at_least)
            return to_8_bits(image).convert("L")
    except Exception as error:  # damage raises errors of many kinds
        raise RejectedImageError(DAMAGED) from error


def shrunk_size(width: int, height: int, max_side: int) -> tuple[int, int]:
    """Returns the size with `max_side` as the longer side and the same aspect ratio."""
    scale = max_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def to_8_bits(image: Image.Image) -> Image.Image:
    """Returns the first frame as "L" or "RGB"; transparency is dropped, as TensorFlow does."""
    if image.mode in _SIXTEEN_BITS:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return image.convert("RGB")


def _open(data: bytes, max_pixels: int) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RejectedImageError(TOO_MANY_PIXELS) from error
    # Damaged headers raise errors of many kinds, some of them by Pillow's accident.
    except Exception as error:
        is_heic = data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS
        raise RejectedImageError(HEIC if is_heic else NOT_AN_IMAGE) from error
    if image.width * image.height > max_pixels:
        raise RejectedImageError(TOO_MANY_PIXELS)
    return image


def _decode(image: Image.Image, data: bytes) -> None:
    try:
        if image.format == "PNG":
            # Checksums of all chunks; the file is used up by it. load() reads up to the pixels.
            Image.open(io.BytesIO(data), formats=_FORMATS).verify()
            has_end = _PNG_END in data
        elif image.format in ("JPEG", "MPO"):
            # Pillow has read up to the first scan, so past the marks of an embedded thumbnail. The
            # mark cannot occur among coefficients, and at 1/8 its absence goes unnoticed.
            has_end = data.endswith(_JPEG_END) or data.find(_JPEG_END, image.fp.tell()) >= 0
            if image.mode == "RGB":
                # 1/8 of the size without colours: half the time, every coefficient is still read.
                image.draft("L", (1, 1))
        else:
            has_end = True
        image.load()
    except Exception as error:
        is_cut = "truncated" in str(error).lower()
        raise RejectedImageError(TRUNCATED if is_cut else DAMAGED) from error
    if not has_end:
        raise RejectedImageError(TRUNCATED)
