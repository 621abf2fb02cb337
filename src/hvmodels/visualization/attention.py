"""Drawings of attention maps over the picture they belong to, with Pillow alone."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


# From little to much attention: dark blue, blue, turquoise, yellow, red.
HEAT_COLOURS = np.array([(35, 25, 110), (50, 120, 240), (60, 205, 175), (250, 220, 60), (215, 40, 35)], dtype=float)
CONTOUR_COLOUR = (255, 255, 255)
TITLE_COLOUR = (20, 20, 20)
MARGIN = 4


def colour_heat(values: np.ndarray) -> np.ndarray:
    """Colours of values from 0 to 1: (...) to (..., 3) of uint8."""
    steps = np.linspace(0, 1, len(HEAT_COLOURS))
    channels = [np.interp(values, steps, channel) for channel in HEAT_COLOURS.T]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def draw_attention(
    image: Image.Image | np.ndarray,
    attention: np.ndarray,
    value_range: tuple[float, float] | None = None,
    opacity: float = 0.5,
    contour: float | None = None,
) -> Image.Image:
    """Lay an attention map over a copy of its picture, blue where there is little attention, red where there is much.

    Args:
        image: The picture, uint8 if it is an array.
        attention: (height, width) scores of any size; they are resized to the picture's, bicubically.
        value_range: Scores of the first and the last colour; None takes the map's own lowest and highest, which shows
            where a map is high but not how high. A map of one score is blue all over then.
        opacity: Of the colours, 0 for the picture alone to 1 for the map alone.
        contour: Draw a line around what exceeds this share of the range, e.g. 0.5.

    Raises:
        ValueError: If the map is no finite matrix, or an option is out of range.
    """
    image = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
    attention = np.asarray(attention, dtype=np.float32)
    if attention.ndim != 2 or attention.size == 0 or not np.isfinite(attention).all():
        raise ValueError(
            f"`attention` must be a matrix (height, width) of finite scores, got shape {attention.shape}."
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f"`opacity` must be from 0 to 1, got {opacity}.")
    if contour is not None and not 0 < contour < 1:
        raise ValueError(f"`contour` must be above 0 and below 1, a share of the range, got {contour}.")
    low, high = (attention.min(), attention.max()) if value_range is None else value_range
    if high < low or (value_range is not None and high == low):
        raise ValueError(f"`value_range` must be a lower and a higher score, got {value_range}.")
    resized = Image.fromarray(attention).resize(image.size, Image.Resampling.BICUBIC)
    shares = np.clip((np.asarray(resized) - low) / ((high - low) or 1), 0, 1)
    overlay = Image.blend(image, Image.fromarray(colour_heat(shares)), opacity)
    if contour is not None:
        overlay.paste(CONTOUR_COLOUR, mask=Image.fromarray(_outline(shares > contour)))
    return overlay


def _outline(inside: np.ndarray) -> np.ndarray:
    """Pixels inside that have a neighbour outside, two pixels wide on large pictures."""
    core = inside
    for _ in range(1 + (min(inside.shape) >= 300)):
        padded = np.pad(core, 1, mode="edge")
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def draw_attention_grid(
    images: Sequence[Image.Image | np.ndarray],
    attention: Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    spread: bool = False,
    tile_size: int = 128,
    columns: int = 4,
    value_range: tuple[float, float] | None = None,
    spread_range: tuple[float, float] | None = None,
) -> Image.Image:
    """A sheet of pictures, each beside its attention map.

    Args:
        images: The pictures.
        attention: For each the map (height, width), or maps (samples, height, width), whose mean is drawn.
        titles: A line for each, written above it.
        spread: Whether to add a third tile with the standard deviation over the samples.
        tile_size: Longer side of a picture on the sheet, in pixels.
        columns: Pictures in a row.
        value_range: See `draw_attention`.
        spread_range: The same for the third tile.

    Raises:
        ValueError: If the numbers of pictures, maps and titles differ, or there are no samples to take a spread of.
    """
    titles = [""] * len(images) if titles is None else titles
    if len(images) == 0 or not len(images) == len(attention) == len(titles):
        raise ValueError(
            "`images`, `attention` and `titles` must be as many, and one at least, got "
            f"{len(images)}, {len(attention)} and {len(titles)}."
        )
    font = ImageFont.load_default(max(11, tile_size // 10))
    title_height = int(font.getbbox("Ag")[3]) + MARGIN if any(titles) else 0
    tiles_each = 3 if spread else 2
    width, height = tiles_each * tile_size + 3 * MARGIN, tile_size + title_height + MARGIN
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for index, (image, maps, title) in enumerate(zip(images, attention, titles, strict=True)):
        image = (Image.fromarray(image) if isinstance(image, np.ndarray) else image).convert("RGB")
        scale = tile_size / max(image.size)
        image = image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.LANCZOS)
        maps = np.asarray(maps, dtype=np.float32)
        samples = maps if maps.ndim == 3 else maps[None]
        tiles = [image, draw_attention(image, samples.mean(axis=0), value_range)]
        if spread:
            if len(samples) < 2:
                raise ValueError("`spread` needs `attention` of at least two samples, (samples, height, width).")
            tiles.append(draw_attention(image, samples.std(axis=0), spread_range))
        x, y = index % columns * width + MARGIN, index // columns * height
        draw.text((x, y), title, font=font, fill=TITLE_COLOUR)
        for position, tile in enumerate(tiles):
            place = (x + position * tile_size + (tile_size - tile.width) // 2, y + title_height)
            sheet.paste(tile, (place[0], place[1] + (tile_size - tile.height) // 2))
    return sheet


__all__ = ["colour_heat", "draw_attention", "draw_attention_grid"]
