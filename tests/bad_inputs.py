"""Bad inputs, and what the user sees of each.

`Row` cases share one conversion: each is a row of its table or a file of its tree. `Command` cases
are conversions of their own. `python tests/bad_inputs.py` prints docs/bad_inputs.md.
"""

import dataclasses
import os
import pathlib
import socket
import sys
from collections.abc import Callable, Mapping

if not __package__:
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))

import bad_images as bad
from image_files import encode, jpeg
from PIL import Image

from tfrecords_tools.conversion import images, inspection
from tfrecords_tools.readers import tables

KEPT = "kept as it is"
CONVERTED = "kept, stored as JPEG"
UNSEEN = "passed over"
FOLDER = "folder called x.jpg"
WITHOUT_PERMISSION = "file without permission"


@dataclasses.dataclass(frozen=True)
class Row:
    """One image of a conversion.

    Attributes:
        name: for the reader.
        outcome: KEPT, CONVERTED, UNSEEN or the reason for which it is left out.
        make: puts it where it is told to.
        cells: of its row, other than usual; of a tree, its path.
    """

    name: str
    outcome: str
    make: Callable[[pathlib.Path], None]
    cells: Mapping[str, str] = dataclasses.field(default_factory=dict)


def holding(data: bytes | Callable[[], bytes]) -> Callable[[pathlib.Path], None]:
    """Makes a file of these bytes."""
    return lambda path: path.write_bytes(data() if callable(data) else data) and None


def nothing(path):
    """Makes no file."""


def bound_socket(path):
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def without_permission(path):
    path.write_bytes(bad.JPEG)
    path.chmod(0)


def sparse(path):
    with open(path, "wb") as file:
        file.write(bad.JPEG[:200])
        file.truncate(2**40)


def link_outside(path):
    target = path.parent.parent / "elsewhere.jpg"
    target.write_bytes(bad.JPEG)
    path.symlink_to(target)


def postscript(path):
    path.write_bytes(bad.postscript(path.with_name("a-program-ran")))


def _image(name, outcome, data):
    return Row(name, outcome, holding(data))


IMAGES = (
    _image("no bytes", images.ZERO_BYTES, b""),
    _image("JPEG, cut in its head", images.NOT_AN_IMAGE, bad.JPEG[:100]),
    _image("JPEG, cut in the middle", images.TRUNCATED, bad.JPEG[: len(bad.JPEG) // 2]),
    _image("JPEG, the last byte missing", images.TRUNCATED, bad.JPEG[:-1]),
    _image("JPEG, bytes missing from the middle: it has no checksums", KEPT, bad.without_middle),
    _image("JPEG with a film behind it", KEPT, bad.JPEG + bad.box_file(b"mp42")),
    _image("JPEG with a second picture (MPO)", KEPT, bad.camera_jpeg),
    _image("JPEG, gray", KEPT, lambda: encode(bad.RGB.convert("L"), "JPEG")),
    _image("JPEG, CMYK", KEPT, lambda: encode(bad.RGB.convert("CMYK"), "JPEG")),
    _image("JPEG, YCCK", KEPT, bad.ycck),
    _image("JPEG to be turned by Exif", KEPT, bad.rotated_jpeg),
    _image("JPEG of 1 x 1", KEPT, jpeg(1, (1, 1))),
    _image("JPEG of 1 x 10,000", KEPT, jpeg(1, (1, 10_000))),
    _image("JPEG that says 30,000 x 30,000", images.TOO_MANY_PIXELS, bad.jpeg_of(30_000, 30_000)),
    _image("JPEG that says 65,535 x 48", images.TOO_MANY_PIXELS, bad.jpeg_of(65_535, 48)),
    _image("JPEG that says 64 x 0", images.NOT_AN_IMAGE, bad.jpeg_of(64, 0)),
    _image("JPEG with 8 MB of Exif", KEPT, bad.jpeg_with(0xE1, b"Exif\0\0" + bytes(65_000), 125)),
    _image("JPEG with 3 MB of colour profile", KEPT, bad.jpeg_with(0xE2, bytes(65_000), 47)),
    _image("JPEG, arithmetic-coded", KEPT, bad.jpeg_of(marker=0xC9)),
    _image("JPEG, lossless", images.UNSUPPORTED_JPEG, bad.lossless_jpeg),
    _image("JPEG of 12 bits", images.UNSUPPORTED_JPEG, bad.jpeg_of(marker=0xC1, bits=12)),
    _image("JPEG, hierarchical", images.UNSUPPORTED_JPEG, bad.jpeg_of(marker=0xC5)),
    _image("PNG, cut in the middle", images.TRUNCATED, bad.PNG[: len(bad.PNG) // 2]),
    _image("PNG, the last byte missing", images.TRUNCATED, bad.PNG[:-1]),
    _image("PNG of 16 bits", KEPT, lambda: encode(bad.gray_16(), "PNG")),
    _image("PNG, palette with transparency", KEPT, bad.transparent_palette),
    _image("PNG, animated", KEPT, lambda: bad.animated("PNG")),
    _image(
        "PNG that says 30,000 x 30,000", images.TOO_MANY_PIXELS, bad.png_of(30_000, 30_000, b"")
    ),
    _image(
        "PNG of 1 x 1 that unpacks to 1 GB", KEPT, lambda: bad.png_of(1, 1, bad.packed_zeros(1024))
    ),
    _image(
        "PNG with text that unpacks to 1 GB",
        images.NOT_AN_IMAGE,
        lambda: bad.png_with_packed_text(1024),
    ),
    _image("GIF, animated", CONVERTED, lambda: bad.animated("GIF")),
    _image("WebP, animated", CONVERTED, lambda: bad.animated("WEBP")),
    _image("TIFF of 16 bits", CONVERTED, lambda: encode(bad.gray_16(), "TIFF")),
    _image(
        "TIFF of 32-bit fractions",
        "unsupported mode F",
        lambda: encode(Image.new("F", (4, 4)), "TIFF"),
    ),
    _image("TIFF of several pages", CONVERTED, lambda: bad.animated("TIFF")),
    _image("BMP", CONVERTED, lambda: encode(bad.RGB, "BMP")),
    _image(
        "BMP of 70,000 x 1",
        images.TOO_MANY_PIXELS,
        lambda: encode(Image.new("RGB", (70_000, 1)), "BMP"),
    ),
    _image("ICO", images.NOT_AN_IMAGE, bad.windows_icon),
    _image("HTML", images.NOT_AN_IMAGE, b"<!doctype html><title>404</title>" * 50),
    _image("text", images.NOT_AN_IMAGE, b"Not found\n"),
    _image("SVG", images.NOT_AN_IMAGE, b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    _image("PDF", images.NOT_AN_IMAGE, b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(500)),
    Row("EPS: no program runs it", images.NOT_AN_IMAGE, postscript),
    _image("HEIC", images.HEIC, bad.box_file(b"heic")),
    _image("MP4", images.NOT_AN_IMAGE, bad.box_file(b"mp42")),
)

FILES = (
    Row("no such file", tables.MISSING, nothing),
    Row(FOLDER, inspection.NOT_A_FILE, lambda path: path.mkdir()),
    Row("named pipe", inspection.NOT_A_FILE, os.mkfifo),
    Row("socket", inspection.NOT_A_FILE, bound_socket),
    Row("link to /dev/zero", inspection.NOT_A_FILE, lambda path: path.symlink_to("/dev/zero")),
    Row("link to a file that is gone", tables.MISSING, lambda path: path.symlink_to("gone")),
    Row("link to itself", inspection.UNREADABLE, lambda path: path.symlink_to(path.name)),
    Row("link to a file outside the folder: a link is followed", KEPT, link_outside),
    Row(WITHOUT_PERMISSION, inspection.UNREADABLE, without_permission),
    Row("file of 1 TB", inspection.TOO_MANY_BYTES, sparse),
)


def _cells(name, outcome, **cells):
    return Row(name, outcome, holding(bad.JPEG), cells)


ROWS = (
    _cells("id ../../etc/passwd: no path is made of it", KEPT, id="../../etc/passwd"),
    _cells("id with comma, quotes and emoji", KEPT, id='a,"b",ü\N{TOKYO TOWER}'),
    _cells("id with a space", tables.WHITE_SPACE, id="two words"),
    _cells("id with a line end", tables.WHITE_SPACE, id="two\nlines"),
    _cells("id with NUL", tables.CONTROL, id="a\0b"),
    _cells("id with an escape sequence of terminals", tables.CONTROL, id="\x1b[2J"),
    _cells("id with half a surrogate pair", tables.NOT_UNICODE, id="a\ud800"),
    _cells("id of 100,000 letters", tables.TOO_LONG, id="a" * 100_000),
    _cells("no id", tables.NO_ID, id=""),
    _cells("id of spaces only", tables.NO_ID, id="   "),
    _cells("an id", KEPT, id="twice"),
    _cells("the same id again", tables.DUPLICATE_ID, id="twice"),
    _cells("the same file under another id", KEPT, path="../photos/./000.good.jpg"),
    _cells("no label", tables.NO_LABEL, label=""),
    _cells("label with line end, NUL and emoji", KEPT, label="a\nb\0\N{TOKYO TOWER}"),
    _cells("label of 100,000 letters", tables.TOO_LONG, label="a" * 100_000),
    _cells("label with half a surrogate pair", tables.NOT_UNICODE, label="\udc00"),
    _cells('is_clean "maybe"', tables.BAD_CLEAN, is_clean="maybe"),
    _cells("no path", tables.NO_PATH, path=""),
    _cells("path ../../etc/passwd", tables.OUTSIDE, path="../../etc/passwd"),
    _cells("path /etc/passwd", tables.OUTSIDE, path="/etc/passwd"),
    _cells("path in a bucket", tables.OUTSIDE, path="gs://elsewhere/a.jpg"),
    _cells("path of the folder itself", tables.OUTSIDE, path="."),
    _cells("path with NUL", tables.NUL_IN_PATH, path="000.good.jpg\0.txt"),
    _cells("path with half a surrogate pair", tables.NOT_UNICODE, path="\ud800.jpg"),
    _cells("path with space, quotes, line end and emoji", KEPT, path='a "b",\n\N{TOKYO TOWER}.jpg'),
    Row("file name of 300 letters", inspection.UNREADABLE, nothing, {"path": "a" * 300}),
    Row("path of 100,000 letters", tables.TOO_LONG, nothing, {"path": "a/" * 50_000}),
)


def in_tree(name, outcome, path, make=None):
    """A file of the tree; `path` may hold bytes that are not UTF-8, as os.fsdecode gives them."""
    return Row(name, outcome, make or holding(bad.JPEG), {"path": path})


TREE = (
    in_tree("file of a class", KEPT, "tower/1.jpg"),
    in_tree("file beside the folders", tables.NO_LABEL, "loose.jpg"),
    in_tree("hidden file", UNSEEN, "tower/.hidden.jpg"),
    in_tree("file in a hidden folder", UNSEEN, ".cache/1.jpg"),
    in_tree(
        "what a file browser leaves", images.NOT_AN_IMAGE, "tower/Thumbs.db", holding(b"db" * 99)
    ),
    in_tree("empty folder", UNSEEN, "nobody", lambda path: path.mkdir()),
    in_tree("file 300 folders deep", KEPT, "deep/" + "d/" * 300 + "1.jpg"),
    in_tree(
        "link to a folder", inspection.NOT_A_FILE, "tower/link", lambda path: path.symlink_to("..")
    ),
    in_tree("image in a folder called x.jpg", KEPT, "tower/x.jpg/inside.jpg"),
    in_tree("name with white space", KEPT, "Old Bridge/my photo.jpg"),
    in_tree("name that is not UTF-8", tables.NOT_UNICODE, os.fsdecode(b"tower/\xff.jpg")),
    in_tree("name of 255 letters", KEPT, "tower/" + "n" * 251 + ".jpg"),
)


# What embed.py does otherwise than write.py, because TensorFlow decodes the files themselves.
NOT_EMBEDDED = ("TIFF of 16 bits", "TIFF of several pages", "WebP, animated")
EMBEDDED = ("BMP of 70,000 x 1",)

_START = """# Bad inputs

What `tfrecords_tools/write.py` makes of each. The table is written by
`python tests/bad_inputs.py > docs/bad_inputs.md`; tests/test_bad_inputs.py runs every line of it
(those of eval/ and retrieval/, tests/test_bad_evaluations.py),
the one without permission only where it does not run as root.
An image that is left out is listed with its reason in `rejects.csv`; the exit code is then 3.
Every image that is kept is decoded by TensorFlow in the test.

`export/embed.py` reads the same files: it leaves out the same images, and TIFF and animated WebP
too, which TensorFlow does not decode. It takes the BMP file of 70,000 x 1, which has no JPEG form.

A JPEG file has no checksums. Without `--decode` only its head and end are looked at: what is cut
off is found, and damage in between may pass. Training gives an image that does not decode weight 0.
"""
_FULL = """
## A full disk

Exit code 1, no half shard is left, and the same command goes on once there is space.
"""
_HEADINGS = {
    "Images": IMAGES,
    "Files": FILES,
    "Rows of a table": ROWS,
    "A tree with one folder per class": TREE,
}


def document() -> str:
    """Returns docs/bad_inputs.md."""
    import bad_commands
    import bad_evaluations
    import bad_searches

    groups = bad_evaluations.GROUPS | bad_searches.GROUPS
    evaluations = {heading: cases for heading, (_, cases) in groups.items()}
    lines = [_START]
    for heading, cases in _HEADINGS.items():
        lines += [f"## {heading}", "", "| input | outcome |", "|---|---|"]
        lines += [f"| {case.name} | {_told(case.outcome)} |" for case in cases]
        lines.append("")
    for heading, commands in (bad_commands.GROUPS | evaluations).items():
        lines += [f"## {heading}", "", "| input | exit code | says |", "|---|---|---|"]
        for name, (_, code, text) in commands.items():
            lines.append(f"| {name} | {code} | {text.replace('|', '/')} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n" + _FULL


def _told(outcome: str) -> str:
    return outcome if outcome in (KEPT, CONVERTED, UNSEEN) else f"left out: {outcome}"


if __name__ == "__main__":
    sys.stdout.write(document())
