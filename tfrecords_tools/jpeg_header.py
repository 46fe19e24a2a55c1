"""Reads the size of a JPEG file from its frame header, as ISO/IEC 10918-1 describes it.

A few microseconds where Pillow takes a hundred and a decoder milliseconds.
"""

START, END = b"\xff\xd8", b"\xff\xd9"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what libjpeg-turbo decodes
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_SCAN = 0xDA


class TooShortError(ValueError):
    """The frame header lies behind the bytes that were given."""


def size_of(head: bytes) -> tuple[int, int] | None:
    """Returns (width, height), or None for a file that is no plain JPEG and needs a closer look.

    Plain is: baseline, extended or progressive, 8 bits, 1 or 3 components.
    Raises TooShortError if `head`, the file's first bytes, ends before the frame header.
    """
    if not head.startswith(START):
        return None
    position = 2
    while position + 10 <= len(head):
        if head[position] != 0xFF:
            return None
        marker = head[position + 1]
        if marker == 0xFF:  # padding
            position += 1
        elif marker in _ALONE:
            position += 2
        elif marker in _FRAMES:
            return _frame_size(head[position + 4 : position + 10])
        elif marker in _OTHER_FRAMES or marker in (_SCAN, END[1], 0x00):
            return None
        else:
            length = int.from_bytes(head[position + 2 : position + 4], "big")
            if length < 2:
                return None
            position += 2 + length
    raise TooShortError


def _frame_size(frame: bytes) -> tuple[int, int] | None:
    bits, components = frame[0], frame[5]
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if bits != 8 or components not in (1, 3) or not width or not height:
        return None
    return width, height
