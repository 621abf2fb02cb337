"""The reliability plot shows the tables that it is given."""

import numpy as np
import pytest

from hvmodels.metrics.calibration import reliability
from hvmodels.visualization.calibration import plot_reliability


pytest.importorskip("matplotlib")


def test_plot_shows_the_tables():
    table = reliability([0.05, 0.15, 0.15, 0.95], [0, 1, 0, 1])
    figure = plot_reliability({"validation": table}, np.array([0.1, 0.2, 0.4]))
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[1].get_xydata(), [(0.05, 0), (0.15, 0.5), (0.95, 1)])
    assert [patch.get_height() for patch in right.patches] == [0.1, 0.2, 0.4]
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["validation"]
    assert len(plot_reliability({"validation": table}).axes) == 1
