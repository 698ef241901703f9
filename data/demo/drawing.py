"""From a scene to a picture, with Pillow: shapes like stickers on a textured background, with clutter and noise."""

import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from clipcap.data.demo.scenes import Group, Scene

SIZE = 192  # pixels of a side
_FINE = 2  # drawn larger by this much, then reduced, so that edges are smooth
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
_RADIUS = {"small": (0.070, 0.080), "large": (0.115, 0.130)}  # parts of the side
_RIM = 0.13  # of a sticker, in radii
_HOLE = 0.42  # of a ring, in radii
_SHADOW = np.array([0.008, 0.014])  # how far it falls, in parts of the side
_GAP = 0.02  # at least this much between two shapes, and to the edge

Points = NDArray[np.float64]  # (n, 2)
Chance = np.random.Generator


def draw_picture(scene: Scene, chance: Chance) -> Image.Image:
    """The scene as a picture.

    Args:
        scene: what to draw.
        chance: decides places, textures, clutter and noise.

    Returns:
        RGB, `SIZE` x `SIZE` pixels.
    """
    picture = Image.new("RGB", (_SIDE, _SIDE))
    _BACKGROUNDS[scene.background](picture, ImageDraw.Draw(picture), chance)
    _draw_clutter(ImageDraw.Draw(picture), chance)
    stickers = [
        (group, radius, place, chance.uniform(-0.16, 0.16))
        for group, radius, places in _arrange(scene, chance)
        for place in places
    ]
    shadow = Image.new("L", picture.size)
    for group, radius, place, turn in stickers:
        _fill(ImageDraw.Draw(shadow), _outline(group.shape, place + _SHADOW, radius, _RIM, turn), 120)
    picture.paste((12, 14, 24), mask=shadow.filter(ImageFilter.BoxBlur(5)))
    for group, radius, place, turn in stickers:
        colour = np.clip(np.array(_RGB[group.colour]) + chance.normal(0, 7, 3), 0, 255)
        rim = (252, 252, 252) if group.colour != "white" else (92, 96, 108)
        for grow, fill in ((_RIM, rim), (0.0, _rgb(0.66 * colour)), (-0.09, _rgb(colour))):
            _fill(ImageDraw.Draw(picture), _outline(group.shape, place, radius, grow, turn), fill)
    pixels = np.asarray(picture.reduce(_FINE), dtype=np.float32)
    noise = chance.standard_normal(pixels.shape, dtype=np.float32) * chance.uniform(1, 6)
    return Image.fromarray(np.clip(pixels * chance.uniform(0.92, 1.06) + noise, 0, 255).astype(np.uint8))


def _arrange(scene: Scene, chance: Chance) -> list[tuple[Group, float, Points]]:
    """Each group with its radius and its shapes' centres, in parts of the side."""
    radii = [chance.uniform(*_RADIUS[group.size]) for group in scene.groups]
    if scene.second is None:
        return [(scene.first, radii[0], next(_scatter(scene.first.count, radii[0], (1.0, 1.0), chance)))]
    along, aside = (0, 1) if scene.relation in ("left of", "right of") else (1, 0)
    room = (0.5, 1.0) if along == 0 else (1.0, 0.5)
    nears, fars = (
        _scatter(group.count, radius, room, chance) for group, radius in zip(scene.groups, radii, strict=True)
    )
    # A group that is left of another must not be above it as well, or the picture would have two true captions.
    near, far = next(
        (near, far)
        for near, far in zip(nears, fars, strict=False)  # both are endless
        if abs(near.mean(axis=0) - far.mean(axis=0))[aside] < 0.16
    )
    (near if scene.relation in ("right of", "below") else far)[:, along] += 0.5
    return [(scene.first, radii[0], near), (scene.second, radii[1], far)]


def _scatter(count: int, radius: float, room: tuple[float, float], chance: Chance) -> Iterator[Points]:
    """Centres (count, 2) of stickers that do not touch, in a room of that width and height; again and again others."""
    margin = (1 + _RIM) * radius + _GAP
    one, other = np.triu_indices(count, 1)
    while True:
        tries = chance.uniform(margin, np.array(room) - margin, (256, count, 2))
        apart = ((tries[:, one] - tries[:, other]) ** 2).sum(axis=-1)
        yield from tries[(apart > (2 * margin - _GAP) ** 2).all(axis=1)]


def _outline(shape: str, place: Points, radius: float, grow: float, turn: float) -> Points:
    """A shape's corners in parts of the side; `grow` moves its edge outwards, in radii."""
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


def _draw_clutter(draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    """A few pebbles and leaves that no caption mentions."""
    for x, y in chance.uniform(0.02, 0.98, (int(chance.integers(2, 9)), 2)) * _SIDE:
        long, wide = chance.uniform(4, 9), chance.uniform(2.5, 5)
        tone = chance.uniform(70, 170) * np.array([1.0, chance.uniform(0.85, 1.0), chance.uniform(0.6, 0.95)])
        draw.ellipse((x - long, y - wide, x + long, y + wide), fill=_rgb(tone), outline=_rgb(0.7 * tone))


def _slope(picture: Image.Image, top: tuple[int, int, int], bottom: tuple[int, int, int], chance: Chance) -> None:
    """Fill with a colour that changes from top to bottom, a little different every time."""
    ends = np.array([top, bottom]) + chance.normal(0, 7, 3)
    share = np.linspace(0, 1, _SIDE)[:, None]
    column = np.clip((1 - share) * ends[0] + share * ends[1], 0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(column[:, None]).resize(picture.size))


def _grass(picture: Image.Image, draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    _slope(picture, (134, 186, 92), (88, 148, 62), chance)
    for x, y in chance.uniform(0, _SIDE, (170, 2)):
        tone = np.array([96, 158, 66]) + chance.normal(0, 24)
        draw.line((x, y, x + chance.uniform(-5, 5), y - chance.uniform(8, 18)), fill=_rgb(tone), width=2)


def _sand(picture: Image.Image, draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    _slope(picture, (238, 214, 162), (222, 190, 132), chance)
    for x, y in chance.uniform(0, _SIDE, (220, 2)):
        draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=_rgb(np.array([206, 172, 116]) + chance.normal(0, 22)))


def _snow(picture: Image.Image, draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    _slope(picture, (204, 220, 238), (236, 242, 250), chance)
    for height in sorted(chance.uniform(0.25, 0.95, 3)):
        rise = chance.uniform(0.04, 0.12) * _SIDE
        x = np.linspace(0, _SIDE, 25)
        y = height * _SIDE + rise * np.sin(x / _SIDE * chance.uniform(3, 6) + chance.uniform(0, 6))
        edge = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
        draw.polygon([*edge, (_SIDE, _SIDE), (0, _SIDE)], fill=_rgb(np.array([224, 234, 247]) + chance.normal(0, 8)))
    for x, y in chance.uniform(0, _SIDE, (60, 2)):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(255, 255, 255))


def _water(picture: Image.Image, draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    _slope(picture, (116, 196, 222), (44, 132, 182), chance)
    for x, y in chance.uniform(-20, _SIDE, (46, 2)):
        wide = chance.uniform(16, 38)
        tone = _rgb(np.array([170, 220, 236]) + chance.normal(0, 16))
        draw.arc((x, y, x + wide, y + 10), 200, 340, fill=tone, width=2)
        draw.arc((x + wide - 3, y, x + 2 * wide - 3, y + 10), 200, 340, fill=tone, width=2)


def _night_sky(picture: Image.Image, draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    _slope(picture, (14, 16, 44), (44, 40, 88), chance)
    for x, y in chance.uniform(0, _SIDE, (90, 2)):
        radius = chance.uniform(0.6, 2.0)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(236, 234, 210))


def _wood(picture: Image.Image, draw: ImageDraw.ImageDraw, chance: Chance) -> None:
    _slope(picture, (176, 124, 76), (160, 108, 64), chance)
    plank = chance.uniform(0.16, 0.26) * _SIDE
    top = -chance.uniform(0, plank)
    while top < _SIDE:
        tone = np.array([168, 116, 70]) + chance.normal(0, 10)
        draw.rectangle((0, top, _SIDE, top + plank), fill=_rgb(tone), outline=_rgb(0.6 * tone), width=2)
        for y in chance.uniform(top + 4, top + plank - 4, 6):
            start, end = sorted(chance.uniform(0, _SIDE, 2))
            draw.line((start, y, end, y + chance.uniform(-3, 3)), fill=_rgb(0.85 * tone), width=2)
        top += plank


_BACKGROUNDS: dict[str, Callable[[Image.Image, ImageDraw.ImageDraw, Chance], None]] = {
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "night sky": _night_sky,
    "wood": _wood,
}
