"""The tracker on persons whose tracks are known; the assignment against SciPy and against all permutations."""

from itertools import permutations

import numpy as np
import pytest

from hvmodels.keypoint_sets import COCO17
from hvmodels.tracking import BoxFollower, PoseTracker, assign


HEIGHT = 170.0
# A standing person from the front, of height 1 about its middle.
FIGURE = np.array(
    [(0, -0.42), (0.03, -0.44), (-0.03, -0.44), (0.05, -0.43), (-0.05, -0.43), (0.11, -0.3), (-0.11, -0.3), (0.15, -0.15),
     (-0.15, -0.15), (0.16, 0), (-0.16, 0), (0.07, 0), (-0.07, 0), (0.07, 0.23), (-0.07, 0.23), (0.07, 0.46), (-0.07, 0.46)]
)  # fmt: skip


def person(x, y=200.0, height=HEIGHT, noise=0.0, random=None, swing=0.0):
    """Keypoints and box; `swing` moves one arm and leg."""
    keypoints = FIGURE * height + (x, y)
    keypoints[[9, 16], 0] += swing
    if noise:
        keypoints = keypoints + random.normal(0, noise, keypoints.shape)
    return keypoints, np.concatenate([keypoints.min(axis=0) - 5, keypoints.max(axis=0) + 5])


def follow(tracker, frames, step=1):
    """Identifiers by name of the person, over frames of {name: x or (x, options)}; a person is shuffled among others."""
    random, found = np.random.default_rng(0), []
    for index, persons in enumerate(frames):
        if index % step:
            continue
        names = list(persons)
        random.shuffle(names)
        drawn = [person(persons[name], noise=2.0, random=random, swing=8 * np.sin(index / 3)) for name in names]
        keypoints = np.array([entry[0] for entry in drawn]).reshape(-1, 17, 2)
        boxes = np.array([entry[1] for entry in drawn]).reshape(-1, 4)
        ids = tracker.update(index, boxes, keypoints)
        assert None not in ids and len(set(ids)) == len(ids)
        found.append(dict(zip(names, ids, strict=True)))
    return found


def ids_of(found, name):
    return {ids[name] for ids in found if name in ids}


@pytest.mark.parametrize("step", [1, 5, 10])
def test_crossing(step):
    """Two alike walk through each other and a third, 4 pixels a frame; which is which is plain but where they coincide."""
    frames = [{"right": 100 + 4 * t, "left": 420 - 4 * t, "still": 255} for t in range(81)]
    found = follow(PoseTracker(COCO17.sigmas), frames, step)
    apart = [ids for index, ids in enumerate(found) if not 38 <= index * step <= 42]
    assert len(apart) >= 8
    ids = [ids_of(apart, name) for name in ("right", "left", "still")]
    assert all(len(entry) == 1 for entry in ids) and len(set.union(*ids)) == 3


def test_crossing_by_boxes_alone():
    tracker, found = PoseTracker(), []
    for t in range(81):
        boxes = [person(100 + 4 * t)[1], person(420 - 4 * t)[1]]
        found.append(tracker.update(t, np.array(boxes)[:: 1 if t % 2 else -1])[:: 1 if t % 2 else -1])
    assert {tuple(ids) for ids in found} == {(2, 1)}


@pytest.mark.parametrize("step", [1, 10])
def test_gap(step):
    """One who walks behind a pillar for 20 frames is the same; one who is away longer than `max_gap` is not."""
    frames = [{"walks": 100 + 3 * t, "still": 500} for t in range(100)]
    for t in range(31, 50):
        del frames[t]["walks"]
    found = follow(PoseTracker(COCO17.sigmas, max_gap=20), frames, step)
    assert len(ids_of(found, "walks")) == 1
    found = follow(PoseTracker(COCO17.sigmas, max_gap=15), frames, step)
    assert len(ids_of(found, "walks")) == 2 and len(ids_of(found, "still")) == 1


def test_hidden_while_crossing():
    """The one behind is not seen where the two overlap, and velocity tells them apart afterwards."""
    frames = [{"front": 100 + 4 * t, "behind": 420 - 4 * t} for t in range(81)]
    for frame in frames:
        if abs(frame["front"] - frame["behind"]) < 50:
            del frame["behind"]
    found = follow(PoseTracker(COCO17.sigmas), frames)
    assert ids_of(found, "front").isdisjoint(ids_of(found, "behind"))
    assert len(ids_of(found, "front")) == len(ids_of(found, "behind")) == 1


def test_births_and_deaths():
    frames = [{"a": 100}, {"a": 102}, {"a": 104, "b": 400}, {"b": 401}, {}, {"b": 403, "c": 104.0}]
    found = follow(PoseTracker(COCO17.sigmas, max_gap=1), frames)
    assert found == [{"a": 1}, {"a": 1}, {"a": 1, "b": 2}, {"b": 2}, {}, {"b": 2, "c": 3}]


def test_low_scores_continue_and_never_begin():
    tracker = PoseTracker(COCO17.sigmas, new_track_score=0.5)
    (first, box), (other, other_box) = person(100), person(400)
    assert tracker.update(0, [box, other_box], [first, other], [0.9, 0.4]) == [1, None]
    assert tracker.update(1, [box, other_box], [first, other], [0.2, 0.4]) == [1, None]
    # The better one goes first, though the other is nearer.
    near, near_box = person(103)
    assert tracker.update(2, [box, near_box], [first, near], [0.2, 0.9]) == [None, 1]


def test_missing_keypoints_do_not_count():
    tracker = PoseTracker(COCO17.sigmas)
    keypoints, box = person(100)
    tracker.update(0, [box], [keypoints])
    hidden = keypoints.copy()
    hidden[7:] = np.nan
    assert tracker.update(1, [box], [hidden]) == [1]
    assert tracker.update(2, [box], [np.full_like(hidden, np.nan)]) == [1]  # by its box
    assert tracker.update(3, [box], [keypoints]) == [1]


def test_refuses():
    tracker = PoseTracker(COCO17.sigmas)
    keypoints, box = person(100)
    tracker.update(5, [box], [keypoints])
    with pytest.raises(ValueError, match="greater than that of the last call, 5, got 5"):
        tracker.update(5, [box], [keypoints])
    with pytest.raises(ValueError, match="of the same persons, got 1, 2 and 1"):
        tracker.update(6, [box], [keypoints, keypoints])
    with pytest.raises(ValueError, match="as many in every frame"):
        tracker.update(6, [box], [keypoints[:5]])
    with pytest.raises(ValueError, match="must be finite"):
        tracker.update(6, [box * np.nan], [keypoints])
    for options, name in (({"max_gap": -1}, "max_gap"), ({"max_gap": 1.5}, "max_gap")):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            PoseTracker(**options)
    for name in ("min_similarity", "new_track_score"):
        with pytest.raises(ValueError, match=f"`{name}` must be a number from 0 to 1"):
            PoseTracker(**{name: 1.5})


def test_follower_moves_and_fits_the_box():
    """The first box may be too large; it then fits, moves on at the person's velocity and widens where nobody looked."""
    follower = BoxFollower([(0, 0, 300, 360)], (640, 360))
    assert follower.boxes_at(0) == {1: (0, 0, 300, 360)}
    for t in range(10):
        keypoints, _ = person(150 + 4 * t, 180)
        assert follower.update(t, {1: keypoints}, {1: 0.9}) == [1]
    ((x, y, width, height),) = follower.boxes_at(10).values()
    low, high = person(150 + 4 * 10, 180)[0].min(axis=0), person(150 + 4 * 10, 180)[0].max(axis=0)
    margin = 0.15 * (high - low).max()
    np.testing.assert_allclose((x, y, x + width, y + height), [*(low - margin), *(high + margin)], atol=1)
    ((later_x, _, later_width, _),) = follower.boxes_at(15).values()
    assert later_x + later_width / 2 == pytest.approx(x + width / 2 + 5 * 4, abs=1) and later_width > 1.05 * width


def test_follower_gives_up():
    keypoints, _ = person(150, 180)
    follower = BoxFollower([(100, 80, 100, 200)], (640, 360), max_gap=3)
    assert follower.update(0, {1: keypoints}, {1: 0.9}) == [1] and follower.update(1, {1: keypoints}, {1: 0.1}) == []
    assert list(follower.boxes_at(4)) == [1] and follower.boxes_at(5) == {}
    leaves = BoxFollower([(540, 80, 100, 200)], (640, 360))
    for t in range(12):
        if not leaves.boxes_at(t):
            break
        leaves.update(t, {1: person(590 + 10 * t, 180)[0]}, {1: 0.9})
    assert 5 <= t <= 11
    same = BoxFollower([(100, 80, 100, 200), (110, 80, 100, 200)], (640, 360), COCO17.sigmas)
    assert same.update(0, {1: keypoints, 2: keypoints + 1}, {1: 0.7, 2: 0.9}) == [2]


def test_assignment_is_the_best():
    random = np.random.default_rng(0)
    for shape in [(1, 1), (3, 3), (2, 5), (5, 2), (4, 4), (6, 3), (0, 3), (3, 0)]:
        for _ in range(20):
            values = random.random(shape).round(1)  # with ties
            pairs = assign(values)
            assert len(pairs) == min(shape) == len({row for row, _ in pairs}) == len({column for _, column in pairs})
            tall = values if shape[0] <= shape[1] else values.T
            best = max(sum(tall[range(len(tall)), order]) for order in permutations(range(tall.shape[1]), len(tall)))
            assert sum(values[pair] for pair in pairs) == pytest.approx(best)


def test_assignment_of_many_equals_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    values = np.random.default_rng(0).normal(size=(60, 80))
    rows, columns = optimize.linear_sum_assignment(-values)
    assert assign(values) == list(zip(rows.tolist(), columns.tolist(), strict=True))
