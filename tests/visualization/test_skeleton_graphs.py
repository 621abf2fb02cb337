import numpy as np
import pytest

from hvmodels import SkeletalGNNConfig, SkeletalGNNModel
from hvmodels.models.pose_sequence.skeleton_graph_skeletal_gnn import SKELETONS
from tests.models.pose_sequence.test_skeleton_streams_skeletal_gnn import standing


plt = pytest.importorskip("matplotlib.pyplot")

from hvmodels.visualization.skeleton_graphs import NEGATIVE, POSITIVE, plot_skeleton_graphs  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_graphs_of_a_model():
    torch = pytest.importorskip("torch")
    model = SkeletalGNNModel(SkeletalGNNConfig(hidden_size=4, num_hidden_layers=0, num_frames=3)).eval()
    graphs = model(torch.randn(2, 3, 17, 2), output_graphs=True).graphs[0]
    figure = plot_skeleton_graphs(graphs[0], standing(), SKELETONS["h36m17"])
    assert [panel.get_title() for panel in figure.axes] == ["branch 0", "branch 1", "branch 2"]
    figure.canvas.draw()


def test_strongest_edges():
    graph = np.zeros((1, 4, 4))
    graph[0, 0, 1], graph[0, 1, 2], graph[0, 2, 3] = 1.0, -2.0, 0.1
    pose = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    (panel,) = plot_skeleton_graphs(graph, pose, [[0, 1]], strongest=2, titles=["near"]).axes
    arrows = {tuple(text.xy): text.arrow_patch.get_edgecolor()[:3] for text in panel.texts}
    expected = {(1.0, 1.0): NEGATIVE, (1.0, 0.0): POSITIVE}
    assert arrows == {place: plt.matplotlib.colors.to_rgb(colour) for place, colour in expected.items()}
    assert panel.get_title() == "near"
    assert not plot_skeleton_graphs(np.zeros((1, 4, 4)), pose, [[0, 1]]).axes[0].texts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"graphs": np.zeros((4, 4))}, "`graphs` must have shape"),
        ({"graphs": np.zeros((1, 4, 3))}, "`graphs` must have shape"),
        ({"pose": np.zeros((3, 2))}, "`pose` must have shape"),
        ({"graphs": np.full((1, 4, 4), np.nan)}, "must be finite"),
        ({"strongest": 0}, "`strongest` must be at least 1"),
        ({"titles": ["a", "b"]}, "`titles` must be 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_input(options, message):
    arguments = {"graphs": np.zeros((1, 4, 4)), "pose": np.zeros((4, 2)), "edges": [[0, 1]], **options}
    with pytest.raises(ValueError, match=message):
        plot_skeleton_graphs(**arguments)
