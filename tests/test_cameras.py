import numpy as np
import pytest
from safetensors.numpy import load_file

from hvmodels.cameras import PinholeCamera
from hvmodels.datasets.human36m import image_joints


@pytest.mark.parametrize("index", range(4))
def test_depths_relative_to_the_root_and_back_as_the_original(fixtures, index):
    """To pixels and relative depths, and back with the depth of the root, as a 3-D pose model needs it."""
    values = load_file(fixtures / "rle" / "h36m_eval" / "io.safetensors")
    label = f"label{index}"
    camera = PinholeCamera(values[f"{label}.input.cam_f"], values[f"{label}.input.cam_c"])
    points, pixels = values[f"{label}.output.joint_cam"], values[f"{label}.output.joint_img"]
    np.testing.assert_allclose(image_joints(points, camera), pixels, rtol=0, atol=1e-9)
    depths = pixels[:, 2] + values[f"{label}.output.root_cam"][2]
    np.testing.assert_allclose(camera.unproject(pixels[:, :2], depths), points, rtol=0, atol=1e-6)


def test_project_and_unproject_are_inverse():
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    camera = PinholeCamera([1145.0, 1143.8], (512.5, 515.5), rotation, [100.0, 200.0, -3000.0])
    points = random.normal(size=(4, 17, 3)) * 500 + [0, 0, 5000]
    world = points @ camera.rotation + camera.position  # the inverse of a rotation is its transpose
    np.testing.assert_allclose(camera.to_camera(world), points, atol=1e-2)  # float32 rotation
    pixels = camera.project(points)
    np.testing.assert_allclose(pixels[..., 0], 1145 * points[..., 0] / points[..., 2] + 512.5)
    np.testing.assert_allclose(camera.unproject(pixels, points[..., 2]), points, rtol=1e-6, atol=1e-6)


def test_one_focal_length_and_camera_frame():
    camera = PinholeCamera(1000.0, (50, 40))
    np.testing.assert_allclose(camera.project(camera.to_camera([[1, -2, 10]])), [[150, -160]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, (1, 2)), "`focal_length` must be positive"),
        (((1, 2, 3), (1, 2)), r"`focal_length` must be finite numbers of shape \(2,\)"),
        ((1.0, (1, np.nan)), "`principal_point` must be finite"),
        ((1.0, (1, 2), np.eye(4)), r"`rotation` must be finite numbers of shape \(3, 3\)"),
        ((1.0, (1, 2), None, (1, 2)), "`position` must be"),
    ],
)
def test_refuses_what_is_no_camera(arguments, message):
    with pytest.raises(ValueError, match=message):
        PinholeCamera(*arguments)


def test_refuses_points():
    camera = PinholeCamera(1.0, (0, 0))
    with pytest.raises(ValueError, match="in front of the camera"):
        camera.project([[0, 0, 1], [0, 0, -1]])
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 3\)"):
        camera.project([[0, 1]])
