"""Drawings of poses in space, whose projection is worked out by hand, and the page, whose script runs where Node is."""

import json
import math
import re
import shutil
import subprocess

import numpy as np
import pytest

from hvmodels.cameras import PinholeCamera
from hvmodels.keypoint_sets import HUMAN36M17
from hvmodels.pose_sequences import PoseSequence, PoseTrack
from hvmodels.video import read_video
from hvmodels.visualization.pose_3d import (
    BACKGROUND,
    DEFAULT_FOCAL_LENGTH,
    SpaceDrawer,
    draw_lifted_video,
    place_persons,
    plot_poses_3d,
    write_lifted_video,
    write_pose_page,
)
from hvmodels.visualization.poses import SIDE_COLOURS


NAMES = ("pelvis", "left_hip", "right_hip", "head")
LINKS = [(0, 1), (0, 2), (0, 3)]


def cross(frames=4, unit="metre", **options):
    """One with the left hip to the right of the picture, as who faces the camera, and the head above; y is down."""
    pose = np.array([[0, 0, 0], [0.8, 0, 0], [-0.8, 0, 0], [0, -0.8, 0]]) * {"metre": 1, "millimetre": 1000}[unit]
    return PoseSequence([PoseTrack(1, 0, np.tile(pose, (frames, 1, 1)))], frames, NAMES, 2.0, unit=unit, **options)


def walker(frames=20, seed=0):
    """A person who goes to the right, in space relative to its pelvis and as a camera sees it."""
    random = np.random.default_rng(seed)
    pose = random.uniform(-0.5, 0.5, (17, 3)) * [1, 2, 0.3]
    pose[0] = 0
    places = np.linspace([-1, 0.2, 5], [1, 0.3, 5], frames)
    camera = PinholeCamera(DEFAULT_FOCAL_LENGTH * 640, (320, 240))
    seen = camera.project(pose + places[:, None])
    names = HUMAN36M17.keypoints
    lifted = PoseSequence([PoseTrack(1, 0, np.tile(pose, (frames, 1, 1)))], frames, names, 10.0, (640, 480), "metre")
    return lifted, PoseSequence([PoseTrack(1, 0, seen)], frames, names, 10.0, (640, 480), "pixel"), places


def coloured(image, side):
    """(height, width) bool, where a picture has the colour of a side, paler or not."""
    pixels = np.asarray(image).astype(float) - BACKGROUND
    colour = np.array(SIDE_COLOURS[side], float) - BACKGROUND
    share = pixels @ colour / (colour @ colour)
    return (share > 0.3) & (np.abs(pixels - share[..., None] * colour).max(axis=-1) < 12)


def is_coloured(image, x, y, side):
    return coloured(image, side)[round(y), round(x)]


@pytest.mark.parametrize("unit", ["metre", "millimetre"])
def test_space_is_seen_as_from_the_camera(unit):
    image = SpaceDrawer(cross(unit=unit), LINKS, size=(200, 160), azimuth=0, elevation=0).draw(0)
    assert image.size == (200, 160)
    # The scene reaches from the hips to the head, 0.4 m above its middle; a metre is 0.45 * 160 pixels there.
    pelvis_y = 80 + 0.4 * 72
    assert is_coloured(image, 100 + 0.4 * 72, pelvis_y, "left")
    assert is_coloured(image, 100 - 0.4 * 72, pelvis_y, "right")
    assert is_coloured(image, 100, pelvis_y - 0.5 * 72, None)
    assert not is_coloured(image, 100 + 0.95 * 72, pelvis_y, "left")


def test_upright_axes_are_the_camera_s_turned():
    camera = cross()
    poses = camera.tracks[0].keypoints[:, :, [0, 2, 1]] * [1, 1, -1]
    upright = PoseSequence([PoseTrack(1, 0, poses)], 4, NAMES, 2.0, unit="metre")
    images = [
        np.asarray(SpaceDrawer(sequence, LINKS, axes, size=(64, 64)).draw(0))
        for sequence, axes in ((camera, "camera"), (upright, "upright"))
    ]
    np.testing.assert_array_equal(*images)


def test_the_eye_goes_round():
    """From behind, left and right have changed places; so they have after a second at half a turn a second."""
    options = {"size": (200, 160), "elevation": 0}
    behind = SpaceDrawer(cross(), LINKS, azimuth=180, **options).draw(0)
    turned = SpaceDrawer(cross(), LINKS, azimuth=0, turn=180, **options).draw(2)
    np.testing.assert_array_equal(np.asarray(behind), np.asarray(turned))
    assert is_coloured(behind, 100 - 0.4 * 72, 80 + 0.4 * 72, "left")
    above = coloured(SpaceDrawer(cross(), LINKS, azimuth=0, size=(200, 160), elevation=90).draw(0), "left")
    assert above[80].sum() > 40 and not above[:70].any() and not above[90:].any()


def test_missing_joints_and_absent_persons_are_not_drawn():
    sequence = cross()
    poses = sequence.tracks[0].keypoints.copy()
    poses[:, 1] = np.nan
    there = PoseSequence([PoseTrack(1, 1, poses[:2])], 4, NAMES, 2.0, unit="metre")
    drawer = SpaceDrawer(there, LINKS, size=(120, 120))
    pictures = [drawer.draw(frame) for frame in range(4)]
    assert [coloured(picture, "right").any() for picture in pictures] == [False, True, True, False]
    assert not any(coloured(picture, "left").any() for picture in pictures)
    nobody = SpaceDrawer(PoseSequence((), 3, NAMES, 2.0, unit="metre"), LINKS, size=(40, 30)).draw(2)
    assert nobody.size == (40, 30)


def test_who_is_out_of_sight_is_not_drawn():
    track = cross().tracks[0]
    scores = np.array([[0.5] * 4, [0] * 4, [0, 0.5, 0, 0], [0.5] * 4])
    sequence = PoseSequence([PoseTrack(1, 0, track.keypoints, scores)], 4, NAMES, 2.0, unit="metre")
    drawer = SpaceDrawer(sequence, LINKS, size=(120, 120))
    assert [bool(coloured(drawer.draw(frame), "right").any()) for frame in range(4)] == [True, False, True, True]


def test_text_is_written():
    drawer = SpaceDrawer(cross(), LINKS, size=(120, 120))
    assert (np.asarray(drawer.draw(0, "1: walk")) != np.asarray(drawer.draw(0)))[:40].any()


def test_persons_without_places_stand_side_by_side():
    track = cross().tracks[0]
    both = PoseSequence([track, PoseTrack(2, 0, track.keypoints)], 4, NAMES, 2.0, unit="metre")
    places = {name: poses[0, 0, 0] for name, (_, poses) in SpaceDrawer(both, LINKS).scene.tracks.items()}
    assert places == {1: pytest.approx(-0.6), 2: pytest.approx(0.6)}
    moved = PoseSequence([track, PoseTrack(2, 0, track.keypoints + np.array([2, 0, 5]))], 4, NAMES, 2.0, unit="metre")
    assert SpaceDrawer(moved, LINKS).scene.tracks[2][1][0, 0, 0] == pytest.approx(2)


def test_persons_are_placed_where_they_are_seen():
    lifted, poses, places = walker()
    placed = place_persons(lifted, poses)
    found = placed.tracks[0].keypoints[:, 0]
    np.testing.assert_allclose(found, places, atol=0.15)  # depths of the joints among them are left aside
    np.testing.assert_allclose(placed.tracks[0].keypoints - found[:, None], lifted.tracks[0].keypoints, atol=1e-5)
    gone = poses.tracks[0].keypoints.copy()
    gone[8:11] = np.nan
    hidden = PoseSequence([PoseTrack(1, 0, gone)], 20, HUMAN36M17.keypoints, 10.0, (640, 480), "pixel")
    np.testing.assert_allclose(place_persons(lifted, hidden).tracks[0].keypoints[:, 0], found, atol=0.1)
    never = PoseSequence([PoseTrack(1, 0, gone * np.nan)], 20, HUMAN36M17.keypoints, 10.0, (640, 480), "pixel")
    assert np.isnan(place_persons(lifted, never).tracks[0].keypoints).all()


def test_the_eye_goes_along():
    """Who walks a long way is in the middle, and as large, all the time."""
    track = cross(60).tracks[0]
    far = PoseSequence(
        [PoseTrack(1, 0, track.keypoints + np.linspace(0, [9, 0, 4], 60)[:, None])], 60, NAMES, 20.0, unit="metre"
    )
    drawers = [SpaceDrawer(sequence, LINKS, size=(200, 160)) for sequence in (cross(60), far)]
    np.testing.assert_allclose(drawers[1].scene.middles[30], [4.5 + 9 / 118, 2 + 4 / 118, 0.4], atol=0.02)
    still, moving = (coloured(drawer.draw(30), "left").any(axis=0).nonzero()[0] for drawer in drawers)
    assert abs(moving[0] - still[0]) < 4 and len(moving) > 0.6 * len(still)


def test_figure():
    pytest.importorskip("matplotlib")
    figure = plot_poses_3d(cross(), frames=[0, 3], links=LINKS)
    assert [axis.get_title() for axis in figure.axes] == ["frame 0", "frame 3"]
    colours = [tuple(np.round(np.array(line.get_color()) * 255).astype(int)) for line in figure.axes[0].lines]
    assert colours == [SIDE_COLOURS["left"], SIDE_COLOURS["right"], SIDE_COLOURS[None]]
    x, y, z = figure.axes[0].lines[0].get_data_3d()
    np.testing.assert_allclose([x, y, z], [[0, 0.8], [0, 0], [0, 0]], atol=1e-6)
    assert len(plot_poses_3d(cross(3), links=LINKS).axes) == 3
    with pytest.raises(ValueError, match=r"`frames` must be one or more of the frames 0 to 3, got \[4\]"):
        plot_poses_3d(cross(), [4], LINKS)


def test_video(tmp_path):
    pytest.importorskip("av")
    lifted, poses, _ = walker(3)
    frames = [np.full((60, 80, 3), 90, np.uint8)] * 3
    scale = [80 / 640, 60 / 480]
    small = PoseSequence(
        [PoseTrack(1, 0, poses.tracks[0].keypoints * scale)], 3, HUMAN36M17.keypoints, 10.0, (80, 60), "pixel"
    )
    actions = [{"track_id": 1, "start_frame": 1, "end_frame": 3, "label": "walk", "score": 0.5}]
    video = read_video(frames, 10)
    images = list(draw_lifted_video(video, small, lifted, HUMAN36M17.links, actions))
    assert {image.size for image in images} == {(80 + 54, 60)}
    for image, space in zip(images, (None, "1: walk 0.50", "1: walk 0.50"), strict=True):
        drawer = SpaceDrawer(lifted, size=(54, 60))
        np.testing.assert_array_equal(np.asarray(image)[:, 80:], np.asarray(drawer.draw(images.index(image), space)))
    write_lifted_video(tmp_path / "out.mp4", video, small, lifted, HUMAN36M17.links, layout="side_by_side")
    read = read_video(tmp_path / "out.mp4")
    assert (read.size, read.num_frames) == ((2 * 80 + 54, 60), 3)


def test_one_action_at_a_time(tmp_path):
    """Windows that overlap by half: each frame has the one whose middle is nearest."""
    windows = [(1, 0, 10, "a"), (1, 5, 15, "b"), (2, 3, 9, "c"), (1, 10, 20, "d")]
    actions = [
        {"track_id": track_id, "start_frame": start, "end_frame": end, "label": label, "score": 0.5}
        for track_id, start, end, label in windows
    ]
    write_pose_page(tmp_path / "page.html", cross(20), LINKS, actions=actions)
    found = {
        action["label"]: (action["start"], action["end"]) for action in data_of(tmp_path / "page.html")["actions"]
    }
    assert found == {"a": (0, 8), "b": (8, 13), "c": (3, 9), "d": (13, 20)}


@pytest.mark.parametrize(
    ("sequence", "options", "message"),
    [
        (PoseSequence([PoseTrack(1, 0, np.ones((2, 4, 2)))], unit="pixel"), {}, "must have poses in space"),
        (PoseSequence([PoseTrack(1, 0, np.ones((2, 4, 3)))]), {}, "and the unit None"),
        (PoseSequence([PoseTrack(1, 0, np.ones((2, 4, 3)))], unit="metre"), {}, "`links` must be given"),
        (cross(), {"links": [(0, 4)]}, r"`links` must join joints 0 to 3, got \(0, 4\)"),
        (cross(), {"links": LINKS, "axes": "world"}, "`axes` must be one of"),
    ],
)
def test_what_cannot_be_drawn(sequence, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SpaceDrawer(sequence, **options)
    with pytest.raises(ValueError, match=message):
        write_pose_page(tmp_path / "page.html", sequence, **options)
    assert not (tmp_path / "page.html").exists()


def test_what_cannot_be_placed():
    lifted, poses, _ = walker(4)
    with pytest.raises(ValueError, match="must be in metres, and `poses` in pixels"):
        place_persons(poses, lifted)
    with pytest.raises(ValueError, match="the same tracks, over the same frames"):
        place_persons(lifted, walker(5)[1])
    with pytest.raises(ValueError, match="joints of a known set"):
        place_persons(lifted, PoseSequence(poses.tracks, 4, None, 10.0, (640, 480), "pixel"))
    with pytest.raises(TypeError, match="`sequence` must be a PoseSequence"):
        SpaceDrawer(poses.tracks[0].keypoints)


# The page


@pytest.fixture
def page(tmp_path):
    sequence = cross()
    poses = sequence.tracks[0].keypoints.copy()
    poses[3, 1] = np.nan
    sequence = PoseSequence([PoseTrack(1, 0, poses)], 5, NAMES, 2.0, unit="metre")
    action = {"track_id": 1, "start_frame": 1, "end_frame": 3, "label": "</script><b>wave", "score": 0.75}
    write_pose_page(tmp_path / "a" / "page.html", sequence, LINKS, actions=[action], title="a <b>")
    return tmp_path / "a" / "page.html"


def data_of(page):
    return json.loads(re.search(r"const scene = (.*);\n", page.read_text()).group(1))


def test_page_holds_the_poses_and_needs_nothing_else(page):
    text, data = page.read_text(), data_of(page)
    assert text.count("</script>") == 1 and "<b>" not in text
    assert not re.search(r"https?:|src=|@import|url\(|<link", text)
    assert data["persons"][0]["millimetres"][0] == [0, 0, 0, 800, 0, 0, -800, 0, 0, 0, 0, 800]
    assert data["persons"][0]["millimetres"][3][3:6] == [None] * 3
    assert (data["numFrames"], data["frameRate"], data["title"]) == (5, 2.0, "a <b>")
    assert data["links"] == [[0, 1, 0], [0, 2, 1], [0, 3, 2]]
    with pytest.raises(ValueError, match=r"`path` must end in .html"):
        write_pose_page("poses.txt", cross(), LINKS)


# The least that a browser has, and what is drawn and written at some moments.
BROWSER = """
const fs = require("fs"), vm = require("vm");
const script = fs.readFileSync(process.argv[2], "utf8").match(/<script>([\\s\\S]*)<\\/script>/)[1];
const handlers = {}, elements = {}, shown = [];
let lines = [], tick = null;
const context = {
  setTransform() {}, clearRect() {}, beginPath() {}, stroke() {}, moveTo(...point) { this.from = point; },
  lineTo(...point) { lines.push({ colour: this.strokeStyle, from: this.from, to: point }); },
};
const make = id => ({
  value: id === "speed" ? "1" : "0", clientWidth: 200, clientHeight: 160, textContent: "", getContext: () => context,
  setPointerCapture() {}, addEventListener(name, handler) { handlers[id + " " + name] = handler; },
});
const body = {};
const document = {
  body, documentElement: {}, getElementById: id => elements[id] ??= make(id),
  addEventListener(name, handler) { handlers["document " + name] = handler; },
};
vm.runInNewContext(script, {
  document, window: {}, getComputedStyle: () => ({ getPropertyValue: name => name }), requestAnimationFrame: f => { tick = f; },
});
const at = time => {
  lines = [];
  tick(time);
  const { caption, count, title, play } = elements;
  shown.push({ bones: lines.filter(line => line.colour.startsWith("rgba")), caption: caption.textContent,
    count: count.textContent, title: title.textContent, play: play.textContent });
};
const key = name => handlers["document keydown"]({ key: name, target: body, preventDefault() {} });
const move = (name, x, y) => handlers["view " + name]({ pointerId: 1, clientX: x, clientY: y });
move("pointerdown", 0, 0); move("pointermove", 75, -25); move("pointerup", 75, -25);  // to azimuth 0, elevation 0
at(0);
for (let time = 100; time <= 600; time += 100) tick(time);
at(700);
key("ArrowRight"); key("ArrowRight"); at(800);
handlers["view wheel"]({ deltaY: -1000 * Math.log(2) / 1.5, preventDefault() {} }); key("ArrowLeft"); at(900);
console.log(JSON.stringify(shown));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_page_plays_and_turns(page, tmp_path):
    (tmp_path / "browser.js").write_text(BROWSER)
    command = ["node", str(tmp_path / "browser.js"), str(page)]
    first, later, stepped, zoomed = json.loads(
        subprocess.run(command, capture_output=True, check=True, text=True).stdout
    )
    assert (first["title"], first["caption"], first["count"]) == ("a <b>", "", "frame 0 of 5, 0.00 s")
    left = next(bone for bone in first["bones"] if bone["colour"].startswith("rgba(0,158,255"))
    # As `SpaceDrawer` draws it.
    pelvis = 100 - 72 * data_of(page)["middles"][0][0]
    np.testing.assert_allclose([left["from"], left["to"]], [[pelvis, 108.8], [pelvis + 57.6, 108.8]], atol=0.01)
    assert (later["count"], later["caption"]) == ("frame 1 of 5, 0.50 s", "1: </script><b>wave 0.75")
    assert later["play"] != "Play" and stepped["play"] == "Play"
    assert stepped["count"].startswith("frame 3") and len(stepped["bones"]) == 2  # one joint is missing
    left = next(bone for bone in zoomed["bones"] if bone["colour"].startswith("rgba(0,158,255"))
    np.testing.assert_allclose(math.dist(left["from"], left["to"]), 2 * 57.6, atol=0.01)
