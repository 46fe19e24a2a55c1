"""What is found out about the bytes of one image. TensorFlow's decoder is the oracle."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, jpeg, picture
from PIL import Image

from tfrecords_tools.conversion import images
from tfrecords_tools.conversion.images import Inspection, RejectedImageError, inspect, stored_bytes

RGB = picture(0, (64, 48))
GRAY_16 = Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21)
TRANSPARENT = RGB.copy()
TRANSPARENT.putalpha(Image.linear_gradient("L").resize(RGB.size))

UNCHANGED = {
    "jpeg": encode(RGB, "JPEG"),
    "progressive jpeg": encode(RGB, "JPEG", progressive=True),
    "gray jpeg": encode(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": encode(RGB.convert("CMYK"), "JPEG"),
    "rgb jpeg": encode(RGB, "JPEG", keep_rgb=True),
    "camera jpeg with a second image": encode(
        RGB, "MPO", save_all=True, append_images=[RGB.rotate(90)]
    ),
    "png": encode(RGB, "PNG"),
    "gray png": encode(RGB.convert("L"), "PNG"),
    "black and white png": encode(RGB.convert("1"), "PNG"),
    "palette png": encode(RGB.quantize(32), "PNG"),
    "4-bit palette png": encode(RGB.quantize(9), "PNG", bits=4),
    "palette png with transparency": encode(RGB.quantize(32), "PNG", transparency=3),
    "palette png with degrees of transparency": encode(
        RGB.quantize(32), "PNG", transparency=bytes(range(0, 256, 8))
    ),
    "png with transparency": encode(TRANSPARENT, "PNG"),
    "gray png with transparency": encode(TRANSPARENT.convert("LA"), "PNG"),
    "16-bit png": encode(GRAY_16, "PNG"),
    "animated png": encode(RGB, "PNG", save_all=True, append_images=[RGB.rotate(90)]),
}
CONVERTED = {
    "webp": encode(RGB, "WEBP", lossless=True),
    "bmp": encode(RGB, "BMP"),
    "gif": encode(RGB.quantize(200), "GIF", save_all=True, append_images=[RGB.rotate(90)]),
    "tiff": encode(RGB, "TIFF"),
    "16-bit tiff": encode(GRAY_16, "TIFF"),
    "cmyk tiff": encode(RGB.convert("CMYK"), "TIFF"),
    "gif with transparency": encode(RGB.quantize(32), "GIF", transparency=3),
    "ppm": encode(RGB, "PPM"),
}
BROKEN = r"truncated|not an image|damaged"


def decode(data):
    return tf.io.decode_image(data, channels=3, expand_animations=False).numpy()


def pixels(data):
    """What Pillow sees, as 8-bit RGB; an own short version of the conversion."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "I;16":
            gray = (np.asarray(image) // 256).astype(np.uint8)
            return np.stack([gray] * 3, axis=-1)
        return np.asarray(image.convert("RGBA" if "P" in image.mode else "RGB"))[..., :3]


@pytest.mark.parametrize("name", UNCHANGED)
def test_jpeg_and_png_pass_unchanged_and_tensorflow_decodes_them(name):
    data = UNCHANGED[name]
    inspection = inspect(data)
    image_format = "png" if "png" in name else "jpeg"
    assert inspection == Inspection(image_format, 64, 48, images.UNCHANGED, len(data))
    assert stored_bytes(data, inspection, quality=1) is data
    difference = np.abs(decode(data).astype(int) - pixels(data))
    # TensorFlow's default JPEG decoder takes the fast, less exact inverse DCT.
    assert difference.max() <= (0 if image_format == "png" else 6)


@pytest.mark.parametrize("name", CONVERTED)
def test_other_formats_become_jpeg(name):
    data = CONVERTED[name]
    inspection = inspect(data)
    assert inspection == Inspection("jpeg", 64, 48, images.CONVERTED, len(data))
    stored = stored_bytes(data, inspection, quality=1)
    assert stored.startswith(b"\xff\xd8\xff")
    assert np.abs(decode(stored).astype(int) - pixels(data)).mean() < 7  # colours at half size


@pytest.mark.parametrize("name", [*UNCHANGED, *CONVERTED])
def test_larger_images_are_shrunk(name):
    data = (UNCHANGED | CONVERTED)[name]
    inspection = inspect(data, max_side=20)
    assert inspection == Inspection("jpeg", 20, 15, images.SHRUNK, len(data))
    stored = stored_bytes(data, inspection, quality=95)
    blocks = pixels(data)[:48, :64].astype(float)
    means = blocks.reshape(3, 16, 4, 16, 3).mean((1, 3))  # (3, 4, 3)
    found = decode(stored).astype(float).reshape(3, 5, 4, 5, 3).mean((1, 3))
    # 1-bit dither and palettes are coarse; a picture turned or with swapped colours is off by 60.
    assert np.abs(found - means).mean() < 8


def test_smaller_images_are_not_touched():
    data = jpeg(1, (40, 20))
    assert inspect(data, max_side=40).change == images.UNCHANGED
    assert inspect(data, max_side=39) == Inspection("jpeg", 39, 20, images.SHRUNK, len(data))


def test_shrinking_is_antialiased():
    """Stripes of one pixel become gray; without antialiasing they stay black or white."""
    stripes = np.zeros((64, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    data = encode(Image.fromarray(stripes), "PNG")
    stored = stored_bytes(data, inspect(data, max_side=128), quality=92)
    assert np.abs(decode(stored)[:, 4:-4].astype(int) - 128).max() < 12


def test_a_shrunk_jpeg_keeps_its_detail():
    """Decoding at a reduced scale must not cost sharpness: compared with a full decode."""
    noise = np.random.default_rng(0).integers(0, 256, (75, 100), dtype=np.uint8)
    data = encode(Image.fromarray(noise).resize((640, 480)), "JPEG", quality=95)
    stored = stored_bytes(data, inspect(data, max_side=100), quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.resize((100, 75), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(decode(stored)[..., 0] - expected).mean() < 0.15 * expected.std()


def test_quality_is_that_of_shrunk_images():
    data = encode(picture(3, (400, 300)), "PNG")
    inspection = inspect(data, max_side=200)
    small, large = (len(stored_bytes(data, inspection, quality=q)) for q in (30, 95))
    assert small < large


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [((300, 200), 150, (150, 100)), ((200, 301), 100, (66, 100)), ((9000, 3), 100, (100, 1))],
)
def test_shrunk_size(size, max_side, expected):
    assert images.shrunk_size(*size, max_side) == expected


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "gray jpeg", "png", "palette png"])
def test_every_truncation_is_found(name):
    data = UNCHANGED[name]
    for length in [*range(1, len(data), 7), *range(len(data) - 40, len(data))]:
        with pytest.raises(RejectedImageError, match=BROKEN):
            inspect(data[:length])


def test_truncation_behind_an_embedded_thumbnail_is_found():
    exif = Image.Exif()
    exif[0x927C] = jpeg(5)  # the maker's note, any bytes
    data = encode(RGB, "JPEG", exif=exif)
    assert data.count(b"\xff\xd9") == 2
    assert inspect(data).change == images.UNCHANGED
    for length in range(len(data) - 9, len(data)):
        with pytest.raises(RejectedImageError, match=images.TRUNCATED):
            inspect(data[:length])


@pytest.mark.parametrize("name", ["jpeg", "png"])
def test_bytes_behind_the_image_do_no_harm(name):
    data = UNCHANGED[name] + b"\0" * 100 + b"\xff\xda\xff\xd8 a film"
    assert inspect(data).change == images.UNCHANGED
    assert decode(data).shape == (48, 64, 3)


@pytest.mark.parametrize("name", ["webp", "gif", "bmp", "tiff"])
def test_half_a_file_of_another_format_is_found(name):
    data = CONVERTED[name]
    with pytest.raises(RejectedImageError, match=BROKEN):
        inspect(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "png", "palette png", "16-bit png"])
def test_damage_that_tensorflow_refuses_is_found(name):
    """Overwrites bytes at random; whatever passes here must be decodable."""
    random = np.random.default_rng(7)
    passed = 0
    for _ in range(60):
        data = bytearray(UNCHANGED[name])
        start = int(random.integers(2, len(data)))
        data[start : start + 3] = random.bytes(len(data[start : start + 3]))
        try:
            inspect(bytes(data))
        except RejectedImageError:
            continue
        passed += 1
        assert decode(bytes(data)).shape[-1] == 3
    assert passed > 0 or "png" in name  # JPEG has no checksums


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", images.ZERO_BYTES),
        (b"a text file\n" * 100, images.NOT_AN_IMAGE),
        (b"\0" * 5000, images.NOT_AN_IMAGE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", images.NOT_AN_IMAGE),
        (UNCHANGED["jpeg"][:-100], images.TRUNCATED),
        (UNCHANGED["png"][:-100], images.TRUNCATED),
        (UNCHANGED["png"][:-2], images.TRUNCATED),
        (encode(Image.new("F", (4, 4)), "TIFF"), "unsupported mode F"),
    ],
)
def test_reasons(data, reason):
    with pytest.raises(RejectedImageError) as raised:
        inspect(data)
    assert str(raised.value) == reason


def png_header(width, height):
    header = struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + checksum
    return start + struct.pack(">I", 1000) + b"IDAT"


@pytest.mark.parametrize("size", [(9000, 9943), (9000, 11000), (60000, 60000)])
def test_too_many_pixels_are_refused_before_they_are_decoded(size):
    with pytest.raises(RejectedImageError, match=images.TOO_MANY_PIXELS):
        inspect(png_header(*size))


def test_the_limit_of_pixels_is_inclusive():
    data = jpeg(0, (24, 16))
    assert inspect(data, max_pixels=24 * 16).width == 24
    with pytest.raises(RejectedImageError, match=images.TOO_MANY_PIXELS):
        inspect(data, max_pixels=24 * 16 - 1)
