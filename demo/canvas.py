"""A drawing surface with smooth edges, and a second layer for what shines at night."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from demo.materials import Colour, smooth_noise

SUPERSAMPLE = 2
CLEAR = (0, 0, 0, 0)

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Texture(NamedTuple):
    """A finished drawing: `image` RGBA and `glow` L (255 = shines at night), of one size."""

    image: Image.Image
    glow: Image.Image


class Canvas:
    """Draws in pixels of the finished picture, at twice the resolution inside.

    Args:
        width: Width in pixels.
        height: Height in pixels. The origin is the top left corner.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = int(width), int(height)
        size = (self.width * SUPERSAMPLE, self.height * SUPERSAMPLE)
        self._image = Image.new("RGBA", size, CLEAR)
        self._glow = Image.new("L", size, 0)
        self._pen = ImageDraw.Draw(self._image)
        self._glow_pen = ImageDraw.Draw(self._glow)

    def polygon(self, points: Sequence[Point], fill: Colour | tuple, glow: int = 0) -> None:
        """A filled polygon; it also covers the glow below it. `CLEAR` cuts a hole."""
        scaled = _scaled(points)
        self._pen.polygon(scaled, fill=tuple(fill))
        self._glow_pen.polygon(scaled, fill=glow)

    def rect(self, box: Box, fill: Colour | tuple, glow: int = 0) -> None:
        """A filled rectangle (left, top, right, bottom)."""
        left, top, right, bottom = box
        if right > left and bottom > top:
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            self.polygon(corners, fill, glow)

    def ellipse(self, box: Box, fill: Colour | tuple, glow: int = 0) -> None:
        """A filled ellipse inside the box."""
        left, top, right, bottom = (value * SUPERSAMPLE for value in box)
        if right > left and bottom > top:
            self._pen.ellipse((left, top, right, bottom), fill=tuple(fill))
            self._glow_pen.ellipse((left, top, right, bottom), fill=glow)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A line with round joints, `width` in pixels."""
        pixels = max(1, round(width * SUPERSAMPLE))
        self._pen.line(_scaled(points), fill=tuple(fill), width=pixels, joint="curve")

    def limb(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A line with round ends."""
        self.line(points, fill, width)
        for x, y in (points[0], points[-1]):
            self.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill)

    def text(self, box: Box, words: str, fill: Colour, glow: int = 0) -> None:
        """Words fitted into the box, as large as its height and width allow."""
        left, top, right, bottom = (value * SUPERSAMPLE for value in box)
        font = ImageFont.load_default(max(6.0, (bottom - top) * 0.95))
        length = font.getlength(words)
        if length > right - left:
            font = ImageFont.load_default(max(5.0, (bottom - top) * 0.95 * (right - left) / length))
        middle = ((left + right) / 2, (top + bottom) / 2)
        self._pen.text(middle, words, fill=tuple(fill), font=font, anchor="mm")
        if glow:
            self._glow_pen.text(middle, words, fill=glow, font=font, anchor="mm")

    def textured(self, points: Sequence[Point], texture: Image.Image) -> None:
        """A polygon filled with an RGB texture, whose top left corner is the canvas's."""
        xs, ys = zip(*points, strict=True)
        left, top = max(0, int(min(xs))), max(0, int(min(ys)))
        right, bottom = min(self.width, int(max(xs)) + 1), min(self.height, int(max(ys)) + 1)
        if right <= left or bottom <= top:
            return
        size = ((right - left) * SUPERSAMPLE, (bottom - top) * SUPERSAMPLE)
        mask = Image.new("L", size, 0)
        moved = [(x - left, y - top) for x, y in points]
        ImageDraw.Draw(mask).polygon(_scaled(moved), fill=255)
        patch = texture.crop((left, top, right, bottom)).resize(size, Image.Resampling.BILINEAR)
        self._image.paste(patch.convert("RGBA"), (left * SUPERSAMPLE, top * SUPERSAMPLE), mask)
        self._glow_pen.polygon(_scaled(points), fill=0)

    def shadow(self, points: Sequence[Point], strength: float, blur: float = 0.0) -> None:
        """Darkens what is already drawn inside the polygon, by a share 0-1."""
        mask = Image.new("L", self._image.size, 0)
        ImageDraw.Draw(mask).polygon(_scaled(points), fill=round(255 * strength))
        if blur:
            mask = mask.filter(ImageFilter.GaussianBlur(blur * SUPERSAMPLE))
        mask = ImageChops.multiply(mask, self._image.getchannel("A"))
        self._image.paste((0, 0, 0, 255), mask=mask)

    def round_off(self, left: float, right: float, top: float, bottom: float) -> None:
        """Shades the columns between left and right as a cylinder lit from the left."""
        box = tuple(round(value * SUPERSAMPLE) for value in (left, top, right, bottom))
        width, height = box[2] - box[0], box[3] - box[1]
        if width < 2 or height < 2:
            return
        across = np.linspace(-1, 1, width)
        shade = 0.62 + 0.45 * np.sqrt(np.clip(1 - (across + 0.25) ** 2 / 1.7, 0, 1))
        patch = np.asarray(self._image.crop(box)).copy()
        patch[..., :3] = np.clip(patch[..., :3] * shade[None, :, None], 0, 255)
        self._image.paste(Image.fromarray(patch), box[:2])

    def weather(self, rng: np.random.Generator, amount: float = 0.12) -> None:
        """Stains and streaks, this landmark's own."""
        width, height = self._image.size
        small = (height // 4, width // 4)
        stains = smooth_noise(rng, *small, 5) + 0.6 * smooth_noise(rng, *small, 14)
        mask = np.clip((stains - 0.2) * 255 * amount, 0, 255).astype(np.uint8)
        layer = Image.fromarray(mask).resize(self._image.size, Image.Resampling.BILINEAR)
        layer = ImageChops.multiply(layer, self._image.getchannel("A"))
        self._image.paste((24, 22, 20, 255), mask=layer)

    def relief(self, radius: float = 6.0, strength: float = 1.4) -> None:
        """Shades the drawing as a rounded body lit from the upper left."""
        alpha = self._image.getchannel("A").reduce(SUPERSAMPLE)
        bump = np.asarray(alpha.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255
        tone = np.asarray(self._image.convert("L").reduce(SUPERSAMPLE), np.float32) / 255
        slope_y, slope_x = np.gradient(bump + 0.25 * tone)
        light = np.clip(1.0 + strength * 6.0 * (slope_x * 0.6 + slope_y), 0.45, 1.5)
        shade = Image.fromarray(np.clip(light * 128, 0, 255).astype(np.uint8))
        shade = shade.resize(self._image.size, Image.Resampling.BILINEAR)
        pixels = np.asarray(self._image).copy()
        factor = np.asarray(shade, np.float32)[..., None] / 128
        pixels[..., :3] = np.clip(pixels[..., :3] * factor, 0, 255)
        self._image = Image.fromarray(pixels)
        self._pen = ImageDraw.Draw(self._image)

    def finish(self) -> Texture:
        """The drawing at its own size."""
        return Texture(self._image.reduce(SUPERSAMPLE), self._glow.reduce(SUPERSAMPLE))


def _scaled(points: Sequence[Point]) -> list[Point]:
    return [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in points]
