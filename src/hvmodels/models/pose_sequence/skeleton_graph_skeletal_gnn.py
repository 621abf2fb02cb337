"""Skeletons as graphs: their edges, the distances between joints, and the groups of pairs that Skeletal-GNN treats alike."""

from collections.abc import Sequence

import numpy as np


# Undirected edges (joint, joint), from 0.
SKELETONS = {
    # Human3.6M's 17 joints, child and parent: pelvis, right and left leg, spine to head, left and right arm.
    "h36m17": (
        (1, 0), (2, 1), (3, 2), (4, 0), (5, 4), (6, 5), (7, 0), (8, 7), (9, 8), (10, 9),
        (11, 8), (12, 11), (13, 12), (14, 8), (15, 14), (16, 15),
    ),
    # NTU RGB+D's 25 joints of Kinect v2, child and parent; 20 is the centre between the shoulders.
    "ntu25": (
        (0, 1), (1, 20), (2, 20), (3, 2), (4, 20), (5, 4), (6, 5), (7, 6), (8, 20), (9, 8), (10, 9), (11, 10),
        (12, 0), (13, 12), (14, 13), (15, 14), (16, 0), (17, 16), (18, 17), (19, 18), (21, 22), (22, 7), (23, 24),
        (24, 11),
    ),
}  # fmt: skip


def skeleton_edges(skeleton: str | Sequence) -> list[list[int]]:
    """The edges of a skeleton by its name, or a list of edges checked.

    Args:
        skeleton: A key of `SKELETONS`, or pairs of joints from 0.

    Raises:
        ValueError: If the name is unknown, or the list holds anything but pairs of different joints.
    """
    if isinstance(skeleton, str):
        if skeleton not in SKELETONS:
            raise ValueError(
                f"`skeleton` must be one of {list(SKELETONS)} or a list of edges (joint, joint), got {skeleton!r}."
            )
        return [list(edge) for edge in SKELETONS[skeleton]]
    edges = [list(edge) if isinstance(edge, list | tuple) else edge for edge in skeleton]
    for edge in edges:
        pair = isinstance(edge, list) and len(edge) == 2
        if not pair or not all(type(joint) is int and joint >= 0 for joint in edge) or edge[0] == edge[1]:
            raise ValueError(
                f"`skeleton` must hold edges of two different joints, integers from 0, such as [0, 1]; got {edge!r}."
            )
    if not edges:
        raise ValueError("`skeleton` must hold at least one edge, got none.")
    return edges


def hop_distances(edges: Sequence[Sequence[int]], num_joints: int) -> np.ndarray:
    """Edges on the shortest path between joints.

    Args:
        edges: Undirected edges (joint, joint), in any order, cycles allowed.
        num_joints: Joints of the skeleton.

    Returns:
        (num_joints, num_joints) int64.

    Raises:
        ValueError: If an edge names a joint that there is none of, or a joint cannot be reached.
    """
    highest = max(max(edge) for edge in edges)
    if highest >= num_joints:
        raise ValueError(f"`skeleton` has an edge to joint {highest}, but `num_joints` is {num_joints}.")
    adjacent = np.eye(num_joints, dtype=bool)
    for joint, other in edges:
        adjacent[joint, other] = adjacent[other, joint] = True
    distances = np.where(np.eye(num_joints, dtype=bool), 0, -1)
    reached = np.eye(num_joints, dtype=bool)
    for hop in range(1, num_joints):
        reached = reached @ adjacent
        distances[reached & (distances < 0)] = hop
    if (distances < 0).any():
        lost = np.flatnonzero(distances[edges[0][0]] < 0).tolist()
        raise ValueError(
            f"`skeleton` must connect all of its {num_joints} joints; no edges lead from joint {edges[0][0]} to {lost}."
        )
    return distances


def hop_masks(distances: np.ndarray, short_hops: int, long_hops: int) -> np.ndarray:
    """Pairs of joints of each branch: up to `short_hops` apart, then exactly one hop more a branch, to `long_hops`.

    Args:
        distances: (joints, joints) of `hop_distances`.
        short_hops: Largest distance in the first branch, which holds the joints themselves too.
        long_hops: Distance of the last branch.

    Returns:
        (1 + long_hops - short_hops, joints, joints) bool.
    """
    exact = [distances == hop for hop in range(short_hops + 1, long_hops + 1)]
    return np.stack([distances <= short_hops, *exact])


def normalize_columns(masks: np.ndarray) -> np.ndarray:
    """Float64 masks (..., joints, joints) whose columns add up to 1; columns without any entry stay 0."""
    return masks / np.maximum(masks.sum(axis=-2, keepdims=True), 1)


__all__ = ["SKELETONS", "hop_distances", "hop_masks", "normalize_columns", "skeleton_edges"]
