"""The first look at the images: what is read of them, and what is found."""

import hashlib
import os

import pytest
from image_files import encode, jpeg, picture
from PIL import Image

import files
from tfrecords_tools.conversion import images, inspection

RGB = picture(0, (64, 48))
LARGE_EXIF = Image.Exif()
LARGE_EXIF[0x927C] = os.urandom(60_000)


def look(path, *, offset=0, size=None, max_side=None, decode=False):
    """[reason, format, width, height, change, bytes, fingerprint] of one place."""
    task = {"places": [[7, str(path), offset, size]], "max_side": max_side, "decode": decode}
    ((number, *found),) = inspection.inspect_places(task)
    assert number == 7
    return found


def good(data, image_format="jpeg", size=(64, 48), change="unchanged"):
    end = hashlib.blake2b(data[-4096:], digest_size=8).hexdigest()
    return [None, image_format, *size, change, len(data), end]


FILES = {
    "plain": encode(RGB, "JPEG"),
    "progressive": encode(RGB, "JPEG", progressive=True),
    "long header": encode(RGB, "JPEG", exif=LARGE_EXIF),
    "bytes behind the end": encode(RGB, "JPEG") + b"behind",
    "cmyk": encode(RGB.convert("CMYK"), "JPEG"),
    "png": encode(RGB, "PNG"),
    "webp": encode(RGB, "WEBP"),
}
HEAD_IS_ENOUGH = {"plain", "progressive", "long header"}


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the files that were decoded."""
    sizes = []
    inspect = images.inspect
    monkeypatch.setattr(
        images, "inspect", lambda data, **o: sizes.append(len(data)) or inspect(data, **o)
    )
    return sizes


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("decode", [False, True])
def test_plain_jpegs_are_not_decoded(tmp_path, decoded, name, decode):
    data = FILES[name]
    (tmp_path / "x").write_bytes(data)
    image_format = "png" if name == "png" else "jpeg"
    change = "converted" if name == "webp" else "unchanged"
    expected = good(data, image_format, change=change)
    assert look(tmp_path / "x", decode=decode) == expected
    assert decoded == ([] if name in HEAD_IS_ENOUGH and not decode else [len(data)])


@pytest.mark.parametrize("name", FILES)
def test_a_place_in_a_file_is_as_a_file(tmp_path, name):
    data = FILES[name]
    (tmp_path / "x").write_bytes(b"before" * 100 + data + b"\xff\xd9 after" * 100)
    alone = tmp_path / "alone"
    alone.write_bytes(data)
    assert look(tmp_path / "x", offset=600, size=len(data)) == look(alone)


@pytest.mark.parametrize("name", ["plain", "long header"])
def test_only_head_and_end_are_read(tmp_path, monkeypatch, name):
    data = FILES[name][:-2] + b"\0" * 500_000 + b"\xff\xd9"
    (tmp_path / "x").write_bytes(data)
    amounts = []
    read = files.read
    monkeypatch.setattr(files, "read", lambda *place: amounts.append(place[2]) or read(*place))
    assert look(tmp_path / "x") == good(data)
    assert amounts == ([4096, 4096] if name == "plain" else [4096, 4096, 2**17])


def test_larger_images_are_to_be_shrunk(tmp_path):
    (tmp_path / "x").write_bytes(FILES["plain"])
    assert look(tmp_path / "x", max_side=32) == good(FILES["plain"], "jpeg", (32, 24), "shrunk")
    assert look(tmp_path / "x", max_side=64) == good(FILES["plain"])


def frame_of_size(width, height):
    data = FILES["plain"]
    frame = data.index(b"\xff\xc0")
    sides = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return data[: frame + 5] + sides + data[frame + 9 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", images.ZERO_BYTES),
        (b"\xff\xd9", images.NOT_AN_IMAGE),
        (b"\xff\xd8\xff\xd9", images.NOT_AN_IMAGE),
        (b"<html>" * 2000, images.NOT_AN_IMAGE),
        (FILES["plain"][:-2], images.TRUNCATED),
        (FILES["plain"][:-200], images.TRUNCATED),
        (frame_of_size(30_000, 30_000), images.TOO_MANY_PIXELS),
        (frame_of_size(1, 65_535), images.TOO_MANY_PIXELS),
        (FILES["png"][:-20], images.TRUNCATED),
    ],
)
def test_bad_files(tmp_path, data, reason):
    (tmp_path / "x").write_bytes(data)
    assert look(tmp_path / "x") == [reason, *[None] * 6]


def test_places_that_cannot_be_read(tmp_path):
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "folder").mkdir()
    (tmp_path / "x").write_bytes(jpeg(0))
    reasons = {
        tmp_path / "gone": "missing",
        tmp_path / "x" / "below": inspection.UNREADABLE,  # below a file
        tmp_path / "self": inspection.UNREADABLE,
        tmp_path / ("n" * 300): inspection.UNREADABLE,  # longer than names may be
        tmp_path / "folder": inspection.NOT_A_FILE,
    }
    for path, reason in reasons.items():
        assert look(path)[0] == reason
    # A tar that was cut off, long before the image or in it.
    assert look(tmp_path / "x", offset=10**9, size=99)[0] == images.TRUNCATED
    assert look(tmp_path / "x", size=len(jpeg(0)) + 50)[0] == images.TRUNCATED
    assert look(tmp_path / "x", size=0)[0] == images.ZERO_BYTES


def test_the_fingerprint_is_that_of_the_last_bytes():
    data = os.urandom(10_000)
    assert inspection.fingerprint(data) == inspection.fingerprint(data[-4096:])
    assert inspection.fingerprint(data) == inspection.fingerprint(b"x" + data)
    assert inspection.fingerprint(data) != inspection.fingerprint(data[:-1])


def test_digests(tmp_path):
    data = jpeg(1)
    (tmp_path / "x").write_bytes(b"before" + data)
    place, gone = [3, str(tmp_path / "x"), 6, len(data)], [4, str(tmp_path / "gone"), 0, None]
    expected = [[3, hashlib.sha256(data).hexdigest()], [4, None]]
    assert inspection.digest_places([place, gone]) == expected
