"""Sizes read from JPEG headers, against Pillow."""

import io
import itertools

import numpy as np
import pytest
from image_files import encode, jpeg, picture
from PIL import Image

from tfrecords_tools.conversion import jpeg_header
from tfrecords_tools.conversion.jpeg_header import TooShortError, size_of

RGB = picture(0, (61, 43))
EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned, which neither Pillow's size nor TensorFlow's decoder takes into account
EXIF[0x927C] = jpeg(1, (160, 120))  # the maker's note holds a JPEG file
LARGE_EXIF = Image.Exif()
LARGE_EXIF[0x927C] = np.random.default_rng(0).bytes(50_000)

PLAIN = {
    "baseline": encode(RGB, "JPEG"),
    "gray": encode(RGB.convert("L"), "JPEG"),
    "progressive": encode(RGB, "JPEG", progressive=True),
    "optimised": encode(RGB, "JPEG", optimize=True),
    "restart intervals": encode(RGB, "JPEG", restart_marker_rows=1),
    "4:4:4": encode(RGB, "JPEG", subsampling=0),
    "RGB": encode(RGB, "JPEG", keep_rgb=True),
    "comment": encode(RGB, "JPEG", comment=b"\xff\xc0\x00\x11\x08\x00\x01\x00\x01\x03" * 900),
    "Exif with a JPEG file": encode(RGB, "JPEG", exif=EXIF),
    "Exif larger than the first read": encode(RGB, "JPEG", exif=LARGE_EXIF),
    "colour profile of several segments": encode(RGB, "JPEG", icc_profile=b"p" * 150_000),
    "second image": encode(RGB, "MPO", save_all=True, append_images=[RGB.resize((9, 9))]),
    "one pixel": jpeg(0, (1, 1)),
    "largest sides": encode(Image.new("L", (65_500, 1)), "JPEG"),
}


def with_marker(data, marker, content=b""):
    """Inserts bytes before the first marker."""
    return data[:2] + b"\xff" + bytes([marker]) + content + data[2:]


def frame_of(data):
    """The position of the frame header, found the slow way."""
    return min(data.find(b"\xff" + bytes([marker])) % 10**9 for marker in (0xC0, 0xC1, 0xC2))


BASELINE = PLAIN["baseline"]
FRAME = frame_of(BASELINE)


def changed(offset, *values, data=BASELINE, start=FRAME):
    """A JPEG file with other bytes from an offset of the frame header on."""
    position = start + offset
    return data[:position] + bytes(values) + data[position + len(values) :]


@pytest.mark.parametrize("name", PLAIN)
def test_the_size_is_pillows(name):
    data = PLAIN[name]
    with Image.open(io.BytesIO(data)) as image:
        assert size_of(data) == image.size


@pytest.mark.parametrize("size", list(itertools.product([1, 7, 255, 256, 4000], repeat=2)))
def test_width_and_height_are_not_swapped(size):
    width, height = size
    assert size_of(changed(5, height >> 8, height & 255, width >> 8, width & 255)) == size


@pytest.mark.parametrize("name", PLAIN)
def test_every_beginning_gives_the_size_or_asks_for_more(name):
    data = PLAIN[name]
    size = size_of(data)
    lengths = range(2, len(data)) if len(data) < 9000 else range(2, len(data), 997)
    answers = []
    for length in lengths:
        try:
            answers.append(size_of(data[:length]))
        except TooShortError:
            answers.append("more")
    known = answers.index(size)
    assert set(answers[:known]) == {"more"}
    assert set(answers[known:]) == {size}


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x89PNG\r\n\x1a\n" + b"\0" * 99, b"BM" * 50])
def test_other_files(data):
    assert size_of(data) is None


@pytest.mark.parametrize(
    "data",
    [
        with_marker(BASELINE, 0xFF, b"\xff\xff"),  # padding
        with_marker(BASELINE, 0x01),  # TEM
        with_marker(BASELINE, 0xD3),  # a restart
        with_marker(BASELINE, 0xFE, b"\x00\x02"),  # an empty comment
        with_marker(BASELINE, 0xE7, b"\x00\x05\xff\xd9\xff"),
        changed(1, 0xC1),  # extended sequential
    ],
)
def test_markers_before_the_frame(data):
    assert size_of(data) == RGB.size


NOT_PLAIN = {
    "CMYK": encode(RGB.convert("CMYK"), "JPEG"),
    "lossless": changed(1, 0xC3),
    "hierarchical": changed(1, 0xC5),
    "arithmetic": changed(1, 0xC9),
    "unknown frame": changed(1, 0xC8),
    "12 bits": changed(4, 12),
    "no width": changed(7, 0, 0),
    "no height, told after the scan": changed(5, 0, 0),
    "two components": changed(9, 2),
    "length of four components": changed(2, 0, 20),
    "second start": with_marker(BASELINE, 0xD8, b"\x00\x02"),
    "end": with_marker(BASELINE, 0xD9, b"\x00\x02"),
    "scan first": with_marker(BASELINE, 0xDA, b"\x00\x02"),
    "zero marker": with_marker(BASELINE, 0x00, b"\x00\x02"),
    "reserved marker": with_marker(BASELINE, 0x50, b"\x00\x02"),
    "length of one": with_marker(BASELINE, 0xE1, b"\x00\x01"),
    "bytes between markers": BASELINE[:2] + b"\0" + BASELINE[2:],
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_needs_a_closer_look(name):
    assert size_of(NOT_PLAIN[name]) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lossless", True), ("hierarchical", True), ("12 bits", True), ("arithmetic", False)],
)
def test_what_tensorflow_refuses(name, expected):
    assert jpeg_header.is_undecodable(NOT_PLAIN[name]) == expected
    assert not jpeg_header.is_undecodable(BASELINE)
    assert not jpeg_header.is_undecodable(BASELINE[:100])


def test_no_size_is_wrong_where_bytes_are_changed_at_random():
    """Where Pillow decodes the file, both have the same size; nothing else is raised."""
    random = np.random.default_rng(5)
    compared = 0
    for name, _ in itertools.product(["baseline", "comment", "progressive"], range(700)):
        data = bytearray(PLAIN[name])
        position = int(random.integers(2, frame_of(PLAIN[name]) + 12))
        data[position : position + 2] = random.bytes(2)
        try:
            size = size_of(bytes(data))
        except TooShortError:
            continue
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError):
            continue
        assert size in (None, image.size)
        compared += size is not None
    assert compared > 500


def test_random_bytes_are_no_images():
    random = np.random.default_rng(0)
    for length in (10, 100, 1000):
        for _ in range(300):
            try:
                assert size_of(b"\xff\xd8\xff" + random.bytes(length)) is None
            except TooShortError:
                continue
