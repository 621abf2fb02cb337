"""Drawings of poses on their picture, with Pillow alone."""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont


SIDE_COLOURS = {"left": (0, 158, 255), "right": (255, 128, 0), None: (80, 220, 100)}
PERSON_COLOURS = (
    (230, 70, 90), (70, 140, 250), (250, 200, 50), (60, 190, 120), (190, 110, 240), (250, 140, 60), (60, 210, 220),
    (240, 120, 190),
)  # fmt: skip
OUTLINE = (20, 20, 20)
MAX_CANVAS = 3000


def side_of(name: str) -> str | None:
    """`"left"` or `"right"` if the name of a keypoint says so (as a word or as L, R), else None."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    is_left, is_right = bool(words & {"left", "l"}), bool(words & {"right", "r"})
    return None if is_left == is_right else "left" if is_left else "right"


def person_colour(identifier: int | str) -> tuple[int, int, int]:
    """Colour of a person, the same for the same number or name."""
    number = identifier if isinstance(identifier, int) else zlib.crc32(str(identifier).encode())
    return PERSON_COLOURS[number % len(PERSON_COLOURS)]


def draw_poses(
    image: Image.Image | np.ndarray,
    persons: Sequence[Mapping[str, Any]],
    links: Iterable[tuple[int, int]] | None = None,
    threshold: float = 0.0,
    keypoint_threshold: float = 0.0,
    boxes: bool = True,
    scores: bool = True,
    line_width: float | None = None,
    show_sigmas: bool = False,
) -> Image.Image:
    """Draw persons on a copy of their picture: limbs blue on the person's left, orange on the right, green between.

    Args:
        image: Upright picture, e.g. `read_image(path)` of the pose pipeline's module.
        persons: Result of the pose pipeline for it; those of low score are drawn first. A `track_id` (from the video
            pipeline) is written beside the score, and the box keeps its colour from frame to frame.
        links: Pairs of keypoints to join, such as `model.config.keypoint_links`; None draws joints alone.
        threshold: Leave out persons of a lower score.
        keypoint_threshold: Draw only keypoints of a higher score, so that 0 marks one that is not there; by their
            `confidence`, which is calibrated, where they have one.
        boxes: Whether to draw boxes; each person has a colour.
        scores: Whether to write the score.
        line_width: In pixels; None goes by the size of each person.
        show_sigmas: Whether to draw a circle around each keypoint with its `sigma` as radius, where it has one.

    Raises:
        ValueError: If a link names a keypoint that a person does not have.
    """
    image = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    links = [tuple(link) for link in links or ()]
    persons = sorted((person for person in persons if person["score"] >= threshold), key=lambda item: item["score"])
    # Pillow draws without smoothing, so that a larger canvas is drawn and scaled down.
    factor = max(1, min(3, MAX_CANVAS // max(image.size)))
    canvas = Image.new("RGBA", (image.width * factor, image.height * factor))
    draw = ImageDraw.Draw(canvas)
    for index, person in enumerate(persons):
        width = factor * (_line_width(person, image.size) if line_width is None else line_width)
        if boxes or scores:
            colour = person_colour(person.get("track_id", index))
            _draw_box(draw, person, colour, width, factor, boxes, scores)
        _draw_skeleton(draw, person["keypoints"], links, keypoint_threshold, width, factor)
        if show_sigmas:
            for point in person["keypoints"]:
                if _certainty(point) > keypoint_threshold:
                    _draw_sigma(draw, point, width, factor)
    overlay = canvas.resize(image.size, Image.Resampling.BOX) if factor > 1 else canvas
    return Image.alpha_composite(image.convert("RGBA"), overlay).convert("RGB")


def _line_width(person: Mapping[str, Any], size: tuple[int, int]) -> float:
    """Lines fit the person, within what is seen well on the picture: 0.3 to 1 % of its longer side."""
    box = person["box"]
    extent = max(box["xmax"] - box["xmin"], box["ymax"] - box["ymin"])
    return max(1.5, min(max(0.015 * extent, 0.003 * max(size)), 0.01 * max(size)))


def _draw_skeleton(
    draw: ImageDraw.ImageDraw,
    keypoints: Sequence[Mapping[str, Any]],
    links: list[tuple[int, int]],
    threshold: float,
    width: float,
    factor: int,
):
    for link in links:
        if not all(0 <= index < len(keypoints) for index in link):
            raise ValueError(f"`links` must join keypoints 0 to {len(keypoints) - 1}, got {link}.")
    points = [(point["x"] * factor, point["y"] * factor) for point in keypoints]
    sides = [side_of(point["label"]) for point in keypoints]
    shown = [_certainty(point) > threshold for point in keypoints]
    limbs = [(start, end) for start, end in links if shown[start] and shown[end]]
    for extra, fill in ((0.8, OUTLINE), (0, None)):
        for start, end in limbs:
            # A limb belongs to a side if neither of its ends is on the other, as from a shoulder to the nose.
            found = {sides[start], sides[end]} - {None}
            colour = fill or SIDE_COLOURS[found.pop() if len(found) == 1 else None]
            draw.line((points[start], points[end]), fill=colour, width=round(width * (1 + extra)))
    for point, side, is_shown in zip(points, sides, shown, strict=True):
        if is_shown:
            _draw_dot(draw, point, 1.3 * width, OUTLINE)
            _draw_dot(draw, point, 0.95 * width, SIDE_COLOURS[side])


def _certainty(point: Mapping[str, Any]) -> float:
    return point.get("confidence", point["score"])


def _draw_sigma(draw: ImageDraw.ImageDraw, point: Mapping[str, Any], width: float, factor: int):
    x, y, radius = (value * factor for value in (point["x"], point["y"], point.get("sigma", 0)))
    if radius:
        outline = SIDE_COLOURS[side_of(point["label"])]
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius), outline=outline, width=max(1, round(0.5 * width))
        )


def _draw_dot(draw: ImageDraw.ImageDraw, point: tuple[float, float], radius: float, colour: tuple[int, int, int]):
    x, y = point
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _draw_box(
    draw: ImageDraw.ImageDraw,
    person: Mapping[str, Any],
    colour: tuple[int, int, int],
    width: float,
    factor: int,
    boxes: bool,
    scores: bool,
):
    left, top, right, bottom = (person["box"][side] * factor for side in ("xmin", "ymin", "xmax", "ymax"))
    if boxes:
        draw.rectangle(
            (min(left, right), min(top, bottom), max(left, right), max(top, bottom)),
            outline=colour,
            width=max(1, round(0.5 * width)),
        )
    if scores:
        track = f"{person['track_id']}: " if "track_id" in person else ""
        text, font = f"{track}{person['score']:.2f}", ImageFont.load_default(max(11 * factor, round(4 * width)))
        margin = max(1, round(0.5 * width))
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        height = y1 - y0 + 2 * margin
        x, y = max(left, 0), top - height if top >= height else max(top, 0)
        draw.rectangle((x, y, x + x1 - x0 + 2 * margin, y + height), fill=colour)
        is_light = np.dot(colour, (0.299, 0.587, 0.114)) > 150
        draw.text((x + margin - x0, y + margin - y0), text, font=font, fill=OUTLINE if is_light else (255, 255, 255))


__all__ = ["draw_poses", "person_colour", "side_of"]
