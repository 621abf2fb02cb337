"""Human3.6M errors: `h36m_eval` was recorded from the original."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from hvmodels.cameras import PinholeCamera
from hvmodels.metrics.human36m import Human36MEvaluator


ACTIONS = {2: "Directions", 5: "Greeting", 8: "Purchases", 11: "Smoking"}


@pytest.fixture
def reference(fixtures):
    return load_file(fixtures / "rle" / "h36m_eval" / "io.safetensors")


@pytest.fixture
def evaluator(reference):
    cameras = [
        PinholeCamera(*(reference[f"label{index}.input.cam_{name}"] for name in ("f", "c", "R", "t")))
        for index in range(4)
    ]
    joints = np.stack([reference[f"label{index}.output.joint_cam"] for index in range(4)])
    evaluator = Human36MEvaluator(joints, cameras, list(ACTIONS.values()))
    for index, pose in enumerate(reference["eval.input.uvd"]):
        evaluator.update(index, pose * [1, 1, 2000])
    return evaluator


def test_equals_the_original(evaluator, reference, fixtures):
    values = evaluator.compute()
    assert values["MPJPE"] == pytest.approx(reference["eval.output.mpjpe"][0], abs=1e-9)
    assert values["PA-MPJPE"] == pytest.approx(reference["eval.output.pa_mpjpe"][0], abs=1e-9)
    axes = [values[f"MPJPE_{axis}"] for axis in "xyz"]
    np.testing.assert_allclose(axes, reference["eval.output.err_xyz"], rtol=0, atol=1e-9)
    predicted, true = evaluator.poses()
    errors = np.linalg.norm(predicted - true, axis=-1)
    np.testing.assert_allclose(errors, reference["eval.output.per_joint_error"], rtol=0, atol=1e-9)

    _, total, by_action = json.loads((fixtures / "rle" / "h36m_eval" / "config.json").read_text())["printed_summary"]
    printed = re.search(r"PA-MPJPE ([\d.]+), .* tot: ([\d.]+), x: ([\d.]+), y: ([\d.]+), z: ([\d.]+)", total).groups()
    for name, value in zip(("PA-MPJPE", "MPJPE", "MPJPE_x", "MPJPE_y", "MPJPE_z"), printed, strict=True):
        assert f"{values[name]:.{len(value.split('.')[1])}f}" == value
    for name, value in re.findall(r"(\w+): (nan|[\d.]+)", by_action):
        if value == "nan":
            assert f"MPJPE_{name}" not in values
        else:
            assert f"{values[f'MPJPE_{name}']:.2f}" == value


def test_processes_gather(evaluator):
    gathered = Human36MEvaluator(evaluator.joints, evaluator.cameras, evaluator.actions)
    for share in ([0, 2], [1, 3], [0]):  # the last as a sampler repeats frames
        gathered.predictions.update({index: evaluator.predictions[index] for index in share})
    assert gathered.compute() == evaluator.compute()


def test_right_poses_have_no_error(evaluator):
    for index, camera in enumerate(evaluator.cameras):
        joints = evaluator.joints[index]
        evaluator.update(index, np.column_stack([camera.project(joints), joints[:, 2] - joints[0, 2]]))
    assert max(evaluator.compute().values()) < 1e-4


def test_refuses(evaluator):
    with pytest.raises(ValueError, match="`index` must be a frame from 0 to 3"):
        evaluator.update(4, evaluator.predictions[0])
    with pytest.raises(ValueError, match=r"`keypoints` must have shape \(18, 3\)"):
        evaluator.update(0, evaluator.predictions[0][:17])
    with pytest.raises(ValueError, match="must be finite"):
        evaluator.update(0, evaluator.predictions[0] * np.nan)
    del evaluator.predictions[2]
    with pytest.raises(ValueError, match="1 of 4 frames are missing, such as 2"):
        evaluator.compute()
    with pytest.raises(ValueError, match="`actions` must have one entry for each of 4"):
        Human36MEvaluator(evaluator.joints, evaluator.cameras, ["Walking"])
    with pytest.raises(ValueError, match="`joints` must have shape"):
        Human36MEvaluator(evaluator.joints[:, :16], evaluator.cameras)
    with pytest.raises(ValueError, match="one frame at least"):
        Human36MEvaluator(evaluator.joints[:0], [])
