"""Pictures of what graph networks on skeletons learned: which joint listens to which."""

from collections.abc import Sequence
from typing import Any

import numpy as np


POSITIVE, NEGATIVE, BONE = "#c44e52", "#4c72b0", "#bbbbbb"


def plot_skeleton_graphs(
    graphs: Any,
    pose: Any,
    edges: Sequence[Sequence[int]],
    strongest: int = 15,
    titles: Sequence[str] | None = None,
) -> Any:
    """Draw the strongest edges of each branch of a layer on a pose.

    An arrow leads from the joint that is listened to, to the one that listens; red adds, blue takes away, and the wider it
    is, the more. What a joint makes of itself is the size of its dot. All panels have one scale.

    Args:
        graphs: (branches, joints, joints), source by target, such as one window of an entry of a model's `graphs`.
        pose: (joints, 2) x to the right and y up, or (joints, 3) of which x and z are drawn.
        edges: Bones of the skeleton, pairs of joints.
        strongest: Edges between different joints to draw for each branch.
        titles: For each branch.

    Returns:
        `matplotlib.figure.Figure`; save it with `figure.savefig(path)`.

    Raises:
        ImportError: Without matplotlib.
        ValueError: If shapes do not fit or a number is not finite.
    """
    try:
        import matplotlib

        matplotlib.use("Agg", force=False)
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("Plots need matplotlib: `pip install hvmodels[viz]`.") from error
    graphs, pose = (
        np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
        for values in (graphs, pose)
    )
    if graphs.ndim != 3 or graphs.shape[1] != graphs.shape[2] or 0 in graphs.shape:
        raise ValueError(f"`graphs` must have shape (branches, joints, joints), got {graphs.shape}.")
    if pose.shape not in ((graphs.shape[1], 2), (graphs.shape[1], 3)):
        raise ValueError(f"`pose` must have shape ({graphs.shape[1]}, 2) or (.., 3), got {pose.shape}.")
    if not np.isfinite(graphs).all() or not np.isfinite(pose).all():
        raise ValueError("`graphs` and `pose` must be finite.")
    if strongest < 1:
        raise ValueError(f"`strongest` must be at least 1, got {strongest}.")
    if titles is not None and len(titles) != len(graphs):
        raise ValueError(f"`titles` must be {len(graphs)}, one a branch, got {len(titles)}.")
    places = pose[:, [0, -1]]
    largest = np.abs(graphs).max() or 1.0
    figure, axes = pyplot.subplots(1, len(graphs), figsize=(3.2 * len(graphs), 4), squeeze=False, layout="constrained")
    for branch, (graph, panel) in enumerate(zip(graphs, axes[0], strict=True)):
        for edge in edges:
            panel.plot(*places[list(edge)].T, color=BONE, linewidth=3, zorder=0)
        own = np.abs(np.diag(graph)) / largest
        panel.scatter(*places.T, s=10 + 120 * own, color=[_colour(value) for value in np.diag(graph)], zorder=2)
        between = graph * (1 - np.eye(len(graph)))
        order = np.argsort(-np.abs(between), axis=None)[:strongest]
        for source, target in zip(*np.unravel_index(order, between.shape), strict=True):
            weight = between[source, target]
            if weight == 0:
                continue
            style = {
                "arrowstyle": "-|>",
                "color": _colour(weight),
                "linewidth": 0.3 + 3 * abs(weight) / largest,
                "connectionstyle": "arc3,rad=0.2",
                "alpha": 0.8,
            }
            panel.annotate("", places[target], places[source], arrowprops=style, zorder=1)
        panel.set(title=f"branch {branch}" if titles is None else titles[branch], aspect="equal", xticks=[], yticks=[])
        panel.margins(0.15)
        panel.set_frame_on(False)
    return figure


def _colour(weight: float) -> str:
    return POSITIVE if weight > 0 else NEGATIVE


__all__ = ["plot_skeleton_graphs"]
