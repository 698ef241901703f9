"""Draws the image of a scene with Pillow: shapes like stickers on a textured background, with clutter and noise."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from clipcap.data.demo.scenes import Group, Scene

SIZE = 192  # pixels along each side of an image
_FINE = 2  # images are drawn larger by this factor and then reduced, so that edges are smooth
_SIDE = SIZE * _FINE

_RGB = {
    "red": (214, 40, 40),
    "orange": (247, 134, 22),
    "yellow": (250, 216, 40),
    "green": (44, 150, 62),
    "blue": (36, 92, 206),
    "purple": (128, 52, 176),
    "pink": (250, 132, 188),
    "white": (246, 246, 246),
}
_RADIUS = {"small": (0.070, 0.080), "large": (0.115, 0.130)}  # range of a shape's radius, as a fraction of the side
_RIM = 0.13  # width of a sticker's rim, in radii
_HOLE = 0.42  # radius of the hole of a ring, in radii
_SHADOW = np.array([0.008, 0.014])  # offset of a sticker's shadow, as a fraction of the side
_GAP = 0.02  # least distance between two shapes and to the edge, as a fraction of the side

Points = NDArray[np.float64]  # (n, 2)
Rng = np.random.Generator


def draw_image(scene: Scene, rng: Rng) -> Image.Image:
    """Draw the image of a scene.

    Args:
        scene: what to draw.
        rng: decides positions, textures, clutter and noise.

    Returns:
        An RGB image of `SIZE` x `SIZE` pixels.
    """
    image = Image.new("RGB", (_SIDE, _SIDE))
    _BACKGROUNDS[scene.background](image, ImageDraw.Draw(image), rng)
    _draw_clutter(ImageDraw.Draw(image), rng)
    stickers = [
        (group, radius, place, rng.uniform(-0.16, 0.16))
        for group, radius, places in _arrange(scene, rng)
        for place in places
    ]
    shadow = Image.new("L", image.size)
    for group, radius, place, turn in stickers:
        _fill(ImageDraw.Draw(shadow), _outline(group.shape, place + _SHADOW, radius, _RIM, turn), 120)
    image.paste((12, 14, 24), mask=shadow.filter(ImageFilter.BoxBlur(5)))
    for group, radius, place, turn in stickers:
        colour = np.clip(np.array(_RGB[group.colour]) + rng.normal(0, 7, 3), 0, 255)
        rim = (252, 252, 252) if group.colour != "white" else (92, 96, 108)
        for grow, fill in ((_RIM, rim), (0.0, _rgb(0.66 * colour)), (-0.09, _rgb(colour))):
            _fill(ImageDraw.Draw(image), _outline(group.shape, place, radius, grow, turn), fill)
    pixels = np.asarray(image.reduce(_FINE), dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(1, 6)
    return Image.fromarray(np.clip(pixels * rng.uniform(0.92, 1.06) + noise, 0, 255).astype(np.uint8))


def _arrange(scene: Scene, rng: Rng) -> list[tuple[Group, float, Points]]:
    """Return each group with the radius and the centres of its shapes, as fractions of the side."""
    radii = [rng.uniform(*_RADIUS[group.size]) for group in scene.groups]
    if scene.second is None:
        return [(scene.first, radii[0], next(_scatter(scene.first.count, radii[0], (1.0, 1.0), rng)))]
    along, aside = (0, 1) if scene.relation in ("left of", "right of") else (1, 0)
    room = (0.5, 1.0) if along == 0 else (1.0, 0.5)
    nears, fars = (_scatter(group.count, radius, room, rng) for group, radius in zip(scene.groups, radii, strict=True))
    # A group that is left of another must not be above it as well, or the image would have two true captions.
    near, far = next(
        (near, far)
        for near, far in zip(nears, fars, strict=False)  # both never end
        if abs(near.mean(axis=0) - far.mean(axis=0))[aside] < 0.16
    )
    (near if scene.relation in ("right of", "below") else far)[:, along] += 0.5
    return [(scene.first, radii[0], near), (scene.second, radii[1], far)]


def _scatter(count: int, radius: float, room: tuple[float, float], rng: Rng) -> Iterator[Points]:
    """Yield, without end, centres (count, 2) of stickers that do not touch in a room of this width and height."""
    margin = (1 + _RIM) * radius + _GAP
    one, other = np.triu_indices(count, 1)
    while True:
        tries = rng.uniform(margin, np.array(room) - margin, (256, count, 2))
        apart = ((tries[:, one] - tries[:, other]) ** 2).sum(axis=-1)
        yield from tries[(apart > (2 * margin - _GAP) ** 2).all(axis=1)]


def _outline(shape: str, place: Points, radius: float, grow: float, turn: float) -> Points:
    """Return the corners of a shape as fractions of the side; `grow` moves its edge outwards, in radii."""
    if shape == "ring":
        inner = _OUTLINES["circle"][::-1] * (_HOLE - grow)
        corners = np.concatenate([_OUTLINES["circle"] * (1 + grow), inner])
    else:
        corners = _OUTLINES[shape] * (1 + grow)
    sine, cosine = math.sin(turn), math.cos(turn)
    turned: Points = corners @ np.array([[cosine, sine], [-sine, cosine]])
    return place + radius * turned


def _round(count: int) -> Points:
    angles = np.linspace(0, 2 * math.pi, count)
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _star() -> Points:
    return _round(11)[:10] * np.where(np.arange(10) % 2, 0.46, 1.08)[:, None]


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 48)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 16, -(y + 2.5) / 15], axis=1)


def _cross() -> Points:
    a = 0.36
    corners = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]
    return np.array(corners)


_OUTLINES: dict[str, Points] = {
    "circle": _round(48),
    "square": 0.84 * np.array([(-1.0, -1.0), (1, -1), (1, 1), (-1, 1)]),
    "triangle": np.array([(0, -0.98), (1.0, 0.78), (-1.0, 0.78)]),
    "diamond": np.array([(0, -1.1), (0.74, 0), (0, 1.1), (-0.74, 0)]),
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
}


def _fill(draw: ImageDraw.ImageDraw, outline: Points, fill: int | tuple[int, int, int]) -> None:
    draw.polygon([(float(x), float(y)) for x, y in outline * _SIDE], fill=fill)


def _rgb(colour: Points) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in np.clip(colour, 0, 255))
    return red, green, blue


def _draw_clutter(draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    """Draw a few pebbles and leaves that no caption mentions."""
    for x, y in rng.uniform(0.02, 0.98, (int(rng.integers(2, 9)), 2)) * _SIDE:
        long, wide = rng.uniform(4, 9), rng.uniform(2.5, 5)
        tone = rng.uniform(70, 170) * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.6, 0.95)])
        draw.ellipse((x - long, y - wide, x + long, y + wide), fill=_rgb(tone), outline=_rgb(0.7 * tone))


def _slope(image: Image.Image, top: tuple[int, int, int], bottom: tuple[int, int, int], rng: Rng) -> None:
    """Fill the image with a colour that changes from top to bottom and varies a little between images."""
    ends = np.array([top, bottom]) + rng.normal(0, 7, 3)
    share = np.linspace(0, 1, _SIDE)[:, None]
    column = np.clip((1 - share) * ends[0] + share * ends[1], 0, 255).astype(np.uint8)
    image.paste(Image.fromarray(column[:, None]).resize(image.size))


def _grass(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    _slope(image, (134, 186, 92), (88, 148, 62), rng)
    for x, y in rng.uniform(0, _SIDE, (170, 2)):
        tone = np.array([96, 158, 66]) + rng.normal(0, 24)
        draw.line((x, y, x + rng.uniform(-5, 5), y - rng.uniform(8, 18)), fill=_rgb(tone), width=2)


def _sand(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    _slope(image, (238, 214, 162), (222, 190, 132), rng)
    for x, y in rng.uniform(0, _SIDE, (220, 2)):
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=_rgb(np.array([206, 172, 116]) + rng.normal(0, 22)))


def _snow(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    _slope(image, (204, 220, 238), (236, 242, 250), rng)
    for height in sorted(rng.uniform(0.25, 0.95, 3)):
        rise = rng.uniform(0.04, 0.12) * _SIDE
        x = np.linspace(0, _SIDE, 25)
        y = height * _SIDE + rise * np.sin(x / _SIDE * rng.uniform(3, 6) + rng.uniform(0, 6))
        edge = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        draw.polygon([*edge, (_SIDE, _SIDE), (0, _SIDE)], fill=_rgb(np.array([224, 234, 247]) + rng.normal(0, 8)))
    for x, y in rng.uniform(0, _SIDE, (60, 2)):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(255, 255, 255))


def _water(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    _slope(image, (116, 196, 222), (44, 132, 182), rng)
    for x, y in rng.uniform(-20, _SIDE, (46, 2)):
        wide = rng.uniform(16, 38)
        tone = _rgb(np.array([170, 220, 236]) + rng.normal(0, 16))
        draw.arc((x, y, x + wide, y + 10), 200, 340, fill=tone, width=2)
        draw.arc((x + wide - 3, y, x + 2 * wide - 3, y + 10), 200, 340, fill=tone, width=2)


def _night_sky(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    _slope(image, (14, 16, 44), (44, 40, 88), rng)
    for x, y in rng.uniform(0, _SIDE, (90, 2)):
        radius = rng.uniform(0.6, 2.0)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(236, 234, 210))


def _wood(image: Image.Image, draw: ImageDraw.ImageDraw, rng: Rng) -> None:
    _slope(image, (176, 124, 76), (160, 108, 64), rng)
    plank = rng.uniform(0.16, 0.26) * _SIDE
    top = -rng.uniform(0, plank)
    while top < _SIDE:
        tone = np.array([168, 116, 70]) + rng.normal(0, 10)
        draw.rectangle((0, top, _SIDE, top + plank), fill=_rgb(tone), outline=_rgb(0.6 * tone), width=2)
        for y in rng.uniform(top + 4, top + plank - 4, 6):
            start, end = sorted(rng.uniform(0, _SIDE, 2))
            draw.line((start, y, end, y + rng.uniform(-3, 3)), fill=_rgb(0.85 * tone), width=2)
        top += plank


_BACKGROUNDS: dict[str, Callable[[Image.Image, ImageDraw.ImageDraw, Rng], None]] = {
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "night sky": _night_sky,
    "wood": _wood,
}
