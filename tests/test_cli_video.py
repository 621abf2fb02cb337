"""`hvmodels predict` on videos and on tracked poses."""

import json

import numpy as np
import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

from hvmodels import RLEConfig, RLEForPoseEstimation, RLEImageProcessor, SmoothNetConfig, cli
from hvmodels.cli import app
from hvmodels.keypoint_sets import COCO17, HUMAN36M17, infer_flip_pairs
from hvmodels.models.pose_sequence import (
    MartinezFCNConfig,
    MartinezFCNFeatureExtractor,
    MartinezFCNForPoseLifting,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
    VideoPose3DConfig,
    VideoPose3DFeatureExtractor,
    VideoPose3DForPoseLifting,
)
from hvmodels.pipelines.pipeline_video_pose_estimation import VideoPoseSequence
from hvmodels.pose_sequences import PoseSequence, PoseTrack
from hvmodels.video import VideoWriter, read_video
from tests.models.pose_sequence.test_feature_extraction_pose_lifting import COCO_STANDING, person


pytest.importorskip("av")

BOX = ["--boxes", "5,5,30,30"]


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    config = RLEConfig(
        backbone_config={**backbone, "out_features": ["stage2"]},
        id2label=dict(enumerate(COCO17.keypoints)),
        flip_pairs=infer_flip_pairs(COCO17.keypoints),
        keypoint_sigmas=list(COCO17.sigmas),
        keypoint_links=[list(link) for link in COCO17.links],
        num_flow_layers=2,
        flow_hidden_size=8,
    )
    folder = tmp_path_factory.mktemp("pose")
    RLEForPoseEstimation(config).save_pretrained(folder)
    RLEImageProcessor(size={"height": 64, "width": 48}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def smoother(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("smoothnet")
    config = SmoothNetConfig(window_size=4, hidden_size=8, intermediate_size=4, num_hidden_layers=1)
    SmoothNetForPoseRefinement(config).save_pretrained(folder)
    SmoothNetFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    random = np.random.default_rng(0)
    with VideoWriter(path, 10) as writer:
        for _ in range(7):
            writer.write(random.integers(0, 256, (40, 64, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def poses(tmp_path_factory):
    """A person who walks to the right, in every frame of the clip."""
    path = tmp_path_factory.mktemp("poses") / "poses.npz"
    keypoints = np.random.default_rng(0).uniform(5, 25, (1, 17, 2)) + 3 * np.arange(7)[:, None, None] * [1, 0]
    PoseSequence(
        [PoseTrack(4, 0, keypoints, np.full((7, 17), 0.8))], 7, COCO17.keypoints, 10.0, (64, 40), "pixel"
    ).save(path)
    return path


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_a_video(model, clip, tmp_path):
    """The kind of file tells the task, whatever the model's own."""
    output, plot = tmp_path / "new" / "out.npz", tmp_path / "new" / "out.mp4"
    options = ["--interval", 3, "--recover", "none", "--threshold", 0.0, "--frame-rate", 10, "--max-gap", 9]
    printed = run("predict", clip, "--model", model, *BOX, *options, "--output", output, "--plot", plot)
    lines = printed.splitlines()
    assert lines[0].startswith(f"{clip}: 7 frames of 64 x 40 pixels, 10 a second; persons were looked for in 3; ")
    assert lines[1].startswith("track 1: frames 0 to ") and ", score 0." in lines[1]
    assert lines[2:] == [f"Wrote {output}", f"Wrote {plot}"]
    sequence = PoseSequence.load(output)
    assert sequence.keypoint_names == COCO17.keypoints and len(sequence) == 7 and not sequence[1].missing.any()
    assert read_video(plot).size == (64, 40) and len(list(read_video(plot))) == 7


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_with_poses_of_a_file(model, clip, poses, tmp_path):
    output, plot = tmp_path / "out.json", tmp_path / "out.mp4"
    options = ["--poses", poses, "--smooth", "none", "--layout", "side_by_side", "--trails", 3]
    printed = run("predict", clip, "--model", model, *options, "--output", output, "--plot", plot)
    assert "track 4: frames 0 to 6, score 0.80" in printed and "searched" not in printed
    found, given = PoseSequence.load(output), PoseSequence.load(poses)
    np.testing.assert_array_equal(found[4].keypoints, given[4].keypoints)
    assert read_video(plot).size == (128, 40)
    run("predict", clip, "--model", model, "--poses", poses, "--smooth", "gaussian", "--output", output)
    assert np.abs(PoseSequence.load(output)[4].keypoints - given[4].keypoints).max() > 0.1


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_by_the_embedded_models(model, clip, poses, monkeypatch, tmp_path):
    """Default pose model, default smoother; a search without boxes is said."""
    defaults = {"video-pose-estimation": model}
    monkeypatch.setattr(cli, "default_model", defaults.__getitem__)
    output = tmp_path / "out.npz"
    printed = run("predict", clip, "--output", output, "--threshold", 1.0)
    assert printed.startswith("One person is searched for") and PoseSequence.load(output).tracks == ()
    run("predict", clip, "--output", output, "--poses", poses)
    smoothed, given = PoseSequence.load(output), PoseSequence.load(poses)
    assert 0 < np.abs(smoothed[4].keypoints - given[4].keypoints).max() < 20


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_a_folder_of_frames(model, clip, tmp_path):
    from PIL import Image

    for frame in read_video(clip):
        Image.fromarray(frame.image).save(tmp_path / f"{frame.index}.png")
    options = ["--task", "video-pose-estimation", "--frame-rate", 5, "--smooth", "one-euro", "--threshold", 0.0]
    assert "7 frames of 64 x 40 pixels, 5 a second" in run("predict", tmp_path, "--model", model, *BOX, *options)


@pytest.fixture(scope="module")
def lifter(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lifter")
    MartinezFCNForPoseLifting(MartinezFCNConfig(hidden_size=8)).save_pretrained(folder)
    MartinezFCNFeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A person who stands in every frame of the clip."""
    path = tmp_path_factory.mktemp("poses") / "standing.npz"
    keypoints = np.asarray(COCO_STANDING, float)
    keypoints = 5 + (keypoints - keypoints.min(axis=0)) / np.ptp(keypoints, axis=0).max() * 30
    tracks = [PoseTrack(4, 0, np.tile(keypoints, (7, 1, 1)))]
    PoseSequence(tracks, 7, COCO17.keypoints, 10.0, (64, 40), "pixel").save(path)
    return path


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_persons_in_space(model, lifter, clip, standing, tmp_path):
    files = {name: tmp_path / f"a{suffix}" for name, suffix in (("output-3d", ".json"), ("output-page", ".html"))}
    options = [value for name, path in files.items() for value in (f"--{name}", path)]
    plot = tmp_path / "a.mp4"
    printed = run("predict", clip, "--model", model, "--poses", standing, "--lift", lifter, *options, "--plot", plot)
    assert printed.splitlines()[-3:] == [f"Wrote {path}" for path in (plot, *files.values())]
    assert PoseSequence.load(files["output-3d"])[4].keypoints.shape == (7, 17, 3)
    assert read_video(plot).size == (64 + 36, 40)
    with pytest.raises(ValueError, match="`output_3d` needs `lift`"):
        run("predict", clip, "--model", model, "--poses", standing, *options)


@pytest.mark.usefixtures("auto_image_processor")
def test_predict_actions(model, clip, standing, monkeypatch):
    """`default` is the embedded model; what persons do is said."""
    asked = {}

    class Estimator:
        is_top_down = False

        def __call__(self, video, **options):
            asked.update(options)
            action = {"track_id": 4, "start_frame": 0, "end_frame": 7, "label": "wave", "score": 0.8}
            poses = PoseSequence.load(standing)
            return VideoPoseSequence(
                poses.tracks, 7, None, 10.0, (64, 40), "pixel", num_detected_frames=7, actions=[action]
            )

    monkeypatch.setattr(cli, "pipeline", lambda *_, **__: Estimator())
    printed = run("predict", clip, "--model", model, "--lift", "default", "--actions", "default")
    assert "track 4: frames 0 to 6 wave, score 0.80" in printed
    assert asked["lift"] is True and asked["actions"] is True


def test_draw_lifted_poses(lifter, standing, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["predict", standing, "--task", "pose-lifting", "--model", lifter, "--plot"]
    for name in ("a.html", "a.png"):
        assert f"Wrote {tmp_path / name}" in run(*command, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "standing.npz" in (tmp_path / "a.html").read_text()


def test_refine_poses(smoother, poses, tmp_path):
    output = tmp_path / "new" / "out.npz"
    printed = run("predict", poses, "--model", smoother, "--output", output)
    assert printed.splitlines() == [f"{poses}: 7 frames", "track 4: frames 0 to 6", f"Wrote {output}"]
    refined, given = PoseSequence.load(output), PoseSequence.load(poses)
    assert refined.track_ids == [4] and np.abs(refined[4].keypoints - given[4].keypoints).max() > 0.01
    assert "track 4" in run("predict", poses, "--task", "pose-refinement", "--model", smoother, "--frame-rate", 12)


def test_lift_poses(tmp_path):
    torch.manual_seed(0)
    VideoPose3DForPoseLifting(VideoPose3DConfig(filter_widths=[3], hidden_size=8)).save_pretrained(tmp_path / "lifter")
    VideoPose3DFeatureExtractor(num_frames=3).save_pretrained(tmp_path / "lifter")
    poses, output, lifter = tmp_path / "poses.npz", tmp_path / "new" / "out.json", ["--model", tmp_path / "lifter"]
    PoseSequence([PoseTrack(4, 1, person(5))], 8, HUMAN36M17.keypoints, 10.0, unit="pixel").save(poses)
    with pytest.raises(ValueError, match="`image_size`"):
        run("predict", poses, *lifter)
    printed = run("predict", poses, *lifter, "--image-size", "1000x800", "--no-flip-test", "--output", output)
    first = f"{poses}: 8 frames, 17 joints in metres from the pelvis"
    assert printed.splitlines() == [first, "track 4: frames 1 to 5", f"Wrote {output}"]
    lifted = PoseSequence.load(output)
    assert (lifted.unit, lifted[4].keypoints.shape, lifted.frame_rate) == ("metre", (5, 17, 3), 10)
    expected = pipeline("pose-lifting", model=str(tmp_path / "lifter"))(poses, image_size=(1000, 800), flip_test=False)
    np.testing.assert_allclose(lifted[4].keypoints, expected[4].keypoints, atol=1e-6)
    with pytest.raises(ValueError, match="`--image-size` must be width and height such as 1920x1080, got '1000'"):
        run("predict", poses, *lifter, "--image-size", "1000")
    with pytest.raises(ValueError, match="pose-lifting needs a file of 2D poses"):
        run("predict", *lifter)


@pytest.mark.usefixtures("auto_image_processor")
def test_refuses(model, smoother, clip, poses, tmp_path):
    with pytest.raises(ValueError, match="needs a video: a file, a folder of frames, or the number of a camera"):
        run("predict", "--task", "video-pose-estimation", "--model", model)
    with pytest.raises(ValueError, match="needs a file of tracked poses"):
        run("predict", "--task", "pose-refinement", "--model", smoother)
    with pytest.raises(ValueError, match="--period cannot be used for video-pose-estimation"):
        run("predict", clip, "--model", model, "--period", 3)
    with pytest.raises(ValueError, match="--smooth cannot be used for pose-estimation"):
        run("predict", "--task", "pose-estimation", "--model", model, "--smooth", "gaussian")
    with pytest.raises(ValueError, match="--plot cannot be used for pose-refinement"):
        run("predict", poses, "--model", smoother, "--plot", tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"`--interval` must be a number of frames for a video, got 0\.9"):
        run("predict", clip, "--model", model, "--interval", 0.9)
    with pytest.raises(ValueError, match="`--boxes` must be x,y,width,height"):
        run("predict", clip, "--model", model, "--boxes", "1,2,3")
    with pytest.raises(ValueError, match=r"gone\.mp4' is none"):
        run("predict", tmp_path / "gone.mp4", "--model", model)
    (tmp_path / "poses.json").write_text(json.dumps({"what": 1}))
    with pytest.raises(ValueError, match="no format that the package knows"):
        run("predict", clip, "--model", model, "--poses", tmp_path / "poses.json")
