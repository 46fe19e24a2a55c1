"""Bytes of images that are damaged, rare or hostile."""

import struct
import zlib

import numpy as np
from image_files import encode, picture
from PIL import Image

RGB = picture(0, (64, 48))
JPEG = encode(RGB, "JPEG", quality=95)
PNG = encode(RGB, "PNG")
_FRAME = JPEG.index(b"\xff\xc0")
_SCAN = JPEG.index(b"\xff\xda")


def segment(marker, payload):
    """One segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def jpeg_of(width=64, height=48, marker=0xC0, bits=8):
    """A JPEG file whose frame header is changed; the pixels stay."""
    frame = bytes([0xFF, marker, *JPEG[_FRAME + 2 : _FRAME + 4], bits])
    return JPEG[:_FRAME] + frame + struct.pack(">HH", height, width) + JPEG[_FRAME + 9 :]


def jpeg_with(marker, payload, count=1):
    """A JPEG file with more segments at its start."""
    return JPEG[:2] + segment(marker, payload) * count + JPEG[2:]


def lossless_jpeg():
    """A gray 8 x 8 file of the lossless process: every difference is zero, a bit of one 0."""
    frame = struct.pack(">BHH4B", 8, 8, 8, 1, 1, 0x11, 0)
    table = bytes([0, 1, *[0] * 15, 0])  # one code of one bit, for category 0
    scan = bytes([1, 1, 0, 1, 0, 0])  # predictor 1
    parts = (segment(0xC3, frame), segment(0xC4, table), segment(0xDA, scan), bytes(8))
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def without_middle():
    """A JPEG file from which the middle of the scan is missing; head and end are there."""
    middle = (_SCAN + len(JPEG)) // 2
    return JPEG[: middle - 100] + JPEG[middle + 100 :]


def ycck():
    """A JPEG file of four components in YCCK, as the Adobe marker says."""
    data = encode(RGB.convert("CMYK"), "JPEG")
    transform = data.index(b"Adobe") + 11
    return data[:transform] + b"\x02" + data[transform + 1 :]


def camera_jpeg():
    """A JPEG file with a second picture behind the first."""
    return encode(RGB, "MPO", save_all=True, append_images=[RGB.rotate(90)])


def rotated_jpeg():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(RGB, "JPEG", exif=exif)


def chunk(name, payload):
    """One chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(name + payload))
    return struct.pack(">I", len(payload)) + name + payload + checksum


def png_of(width, height, pixels, *chunks):
    """A gray 8-bit PNG file of any header around packed pixels."""
    header = struct.pack(">II5B", width, height, 8, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed_zeros(megabytes):
    """Zeros that zlib makes a thousand times smaller."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (megabytes * 2**20 % 65521) << 16 | 1  # Adler-32
    return b"\x78\xda" + block * megabytes + b"\3\0" + checksum.to_bytes(4, "big")


def png_with_packed_text(megabytes):
    text = chunk(b"iTXt", b"Comment\0\1\0\0\0" + packed_zeros(megabytes))
    return png_of(1, 1, zlib.compress(b"\0\0"), text)


def gray_16():
    return Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21)


def animated(image_format):
    pages = [RGB.rotate(90), RGB.rotate(180)]
    return encode(RGB, image_format, save_all=True, append_images=pages)


def transparent_palette():
    return encode(RGB.quantize(32), "PNG", transparency=bytes(range(0, 256, 8)))


def postscript(target):
    """An EPS file that writes to `target` when a program runs it."""
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    return (text + f"({target}) (w) file (ran) writestring showpage\n%%EOF\n").encode()


def windows_icon():
    return encode(RGB, "ICO")


def box_file(brand, size=4096):
    """The start of an ISO media file: HEIC, AVIF or MP4 by its brand."""
    return struct.pack(">I", 24) + b"ftyp" + brand + struct.pack(">I", 0) + brand * 2 + bytes(size)
