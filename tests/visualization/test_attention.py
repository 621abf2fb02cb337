import numpy as np
import pytest
from PIL import Image

from hvmodels.visualization.attention import (
    CONTOUR_COLOUR,
    HEAT_COLOURS,
    colour_heat,
    draw_attention,
    draw_attention_grid,
)


GREY = Image.new("RGB", (80, 40), (100, 100, 100))
LEFT_HIGH = np.array([[3.0, 1.0]])
FIRST, LAST = (tuple(map(int, HEAT_COLOURS[index])) for index in (0, -1))


def test_colours_run_from_first_to_last():
    colours = colour_heat(np.array([[0, 0.125, 1]]))
    assert colours.dtype == np.uint8 and colours.shape == (1, 3, 3)
    np.testing.assert_array_equal(colours[0, 0], HEAT_COLOURS[0])
    np.testing.assert_allclose(colours[0, 1], HEAT_COLOURS[:2].mean(axis=0), atol=0.5)
    np.testing.assert_array_equal(colours[0, 2], HEAT_COLOURS[-1])


def test_high_scores_are_red_and_low_ones_blue():
    drawn = draw_attention(GREY, LEFT_HIGH, opacity=1)
    assert drawn.size == GREY.size and GREY.getcolors() == [(3200, (100, 100, 100))]
    assert drawn.getpixel((0, 20)) == LAST and drawn.getpixel((79, 20)) == FIRST
    half = draw_attention(np.asarray(GREY), LEFT_HIGH).getpixel((0, 0))
    np.testing.assert_allclose(half, (np.array(LAST) + 100) / 2, atol=1)
    assert draw_attention(GREY, LEFT_HIGH, opacity=0).getcolors() == GREY.getcolors()


def test_value_range_compares_pictures():
    """3 is half of 0 to 6."""
    drawn = draw_attention(GREY, np.full((2, 2), 3), value_range=(0, 6), opacity=1)
    np.testing.assert_array_equal(drawn.getpixel((0, 0)), HEAT_COLOURS[2])
    assert draw_attention(GREY, LEFT_HIGH, value_range=(5, 6), opacity=1).getcolors() == [(3200, FIRST)]


def test_constant_map_is_blue():
    assert draw_attention(GREY, np.full((3, 3), 0.7), opacity=1).getcolors() == [(3200, FIRST)]


@pytest.mark.parametrize(("size", "line_width"), [((80, 40), 1), ((640, 320), 2)])
def test_contour_surrounds_what_is_high(size, line_width):
    scores = np.zeros((5, 5))
    scores[2, 2] = 1
    drawn = np.asarray(draw_attention(Image.new("RGB", size), scores, contour=0.5))
    line = (drawn == CONTOUR_COLOUR).all(axis=-1)
    middle = line[size[1] // 2]
    assert middle.sum() == 2 * line_width
    first, last = np.flatnonzero(middle)[[0, -1]]
    assert size[0] * 0.35 < first < last < size[0] * 0.65
    assert not line[:, :first].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": np.zeros((2, 2, 2))}, r"`attention` must be a matrix .* got shape \(2, 2, 2\)"),
        ({"attention": np.zeros((0, 2))}, "`attention`"),
        ({"attention": np.array([[np.nan]])}, "`attention` must be .* finite"),
        ({"opacity": 1.5}, "`opacity` must be from 0 to 1, got 1.5"),
        ({"contour": 1}, "`contour` must be above 0 and below 1"),
        ({"value_range": (1, 1)}, "`value_range` must be a lower and a higher score"),
        ({"value_range": (2, 1)}, "`value_range`"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        draw_attention(GREY, **{"attention": LEFT_HIGH, **options})


def test_grid_puts_each_picture_beside_its_mean_map():
    samples = np.stack([LEFT_HIGH + 1, LEFT_HIGH - 1])
    sheet = draw_attention_grid(
        [GREY, GREY, np.asarray(GREY)], [LEFT_HIGH, LEFT_HIGH, samples], tile_size=80, columns=2
    )
    width, height = 2 * 80 + 12, 80 + 4
    assert sheet.size == (2 * width, 2 * height)
    cells = [sheet.crop((x, y, x + width, y + height)) for x, y in ((0, 0), (width, 0), (0, height))]
    assert {cell.tobytes() for cell in cells} == {cells[0].tobytes()}  # the mean of the samples is the map
    assert cells[0].getpixel((44, 40)) == (100, 100, 100)
    assert cells[0].getpixel((84, 40)) == draw_attention(GREY, LEFT_HIGH).getpixel((0, 20))
    assert sheet.crop((width, height, 2 * width, 2 * height)).getcolors() == [(width * height, (255, 255, 255))]


def test_grid_with_titles_and_spread():
    samples = np.array([[[0.0, 0.5]], [[1.0, 0.5]]])  # uncertain on the left
    plain = draw_attention_grid([GREY], [samples], tile_size=80)
    sheet = draw_attention_grid([GREY], [samples], titles=["shirt"], spread=True, tile_size=80)
    assert sheet.width == plain.width + 80 and sheet.height > plain.height
    assert min(sheet.crop((0, 0, 80, sheet.height - 84)).convert("L").tobytes()) < 60  # the title
    y = sheet.height - 44
    expected = draw_attention(GREY, samples.std(axis=0))
    assert sheet.getpixel((4 + 160, y)) == expected.getpixel((0, 20)) != sheet.getpixel((4 + 239, y))


def test_grid_refuses():
    with pytest.raises(ValueError, match="must be as many, and one at least, got 1, 0 and 1"):
        draw_attention_grid([GREY], [])
    with pytest.raises(ValueError, match="one at least"):
        draw_attention_grid([], [])
    with pytest.raises(ValueError, match="at least two samples"):
        draw_attention_grid([GREY], [LEFT_HIGH], spread=True)
