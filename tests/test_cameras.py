import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from hvmodels.cameras import (
    DistortedCamera,
    PinholeCamera,
    image_coordinates,
    normalize_screen_coordinates,
    project_human36m,
)
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


# Human3.6M's lenses, and VideoPose3D's coordinates

EXACT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def geometry(fixtures):
    return load_file(fixtures / "videopose3d" / "geometry_metrics" / "io.safetensors")


def test_projection_as_the_original(geometry):
    points, intrinsics = geometry["input.cam_points"], geometry["input.cam_params"]
    for distort, name in ((True, "project"), (False, "project_linear")):
        expected = geometry[f"output.{name}"]
        np.testing.assert_allclose(project_human36m(points, intrinsics, distort), expected, **EXACT)
        tensors = torch.from_numpy(points).requires_grad_(), torch.from_numpy(intrinsics)
        np.testing.assert_allclose(project_human36m(*tensors, distort).detach(), expected, **EXACT)
    assert torch.autograd.gradcheck(lambda points: project_human36m(points, tensors[1][:2]), tensors[0][:2, :3])


def test_world_and_camera_as_the_original(geometry):
    w, x, y, z = geometry["input.quaternion_wxyz"].astype(np.float64)
    vector = np.array([x, y, z])
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = (2 * (np.outer(vector, vector) + w * cross) + (2 * w * w - 1) * np.eye(3)).T
    camera = PinholeCamera(1.0, (0, 0), rotation, geometry["input.translation"])
    world = geometry["input.world_points"]
    in_camera = geometry["output.world_to_camera"]
    tolerance = {"rtol": 2e-6, "atol": 2e-6}
    np.testing.assert_allclose(camera.to_camera(world), in_camera, **tolerance)
    np.testing.assert_allclose(camera.to_world(in_camera), geometry["output.camera_to_world"], **tolerance)


def test_screen_coordinates_as_the_original(geometry):
    pixels = geometry["input.pixels"]
    for size in ((1000, 1002), (1920, 1080)):
        normalized = normalize_screen_coordinates(pixels, size)
        np.testing.assert_allclose(normalized, geometry[f"output.screen_{size[0]}x{size[1]}"], **EXACT)
        np.testing.assert_allclose(image_coordinates(normalized, size), pixels, **EXACT)
    np.testing.assert_allclose(pixels, geometry["output.image_back"], **EXACT)


def test_points_far_from_the_axis_are_cut():
    intrinsics = np.array([[1000, 1000, 500, 500, 0, 0, 0, 0, 0.0]])
    np.testing.assert_allclose(project_human36m(np.array([[[9.0, -9, 3]]]), intrinsics), [[[1500, -500]]])


def test_a_distorted_camera():
    lens = {"radial_distortion": (-0.2, 0.24, -0.003), "tangential_distortion": (-0.001, -0.0014)}
    camera = DistortedCamera((1145.0, 1143.8), (512.5, 515.5), None, (1, 2, 3), **lens)
    points = np.random.default_rng(0).uniform([-0.4, -0.4, 1], [0.4, 0.4, 5], (20, 3)) * [3, 3, 1]
    points[:, :2] *= points[:, 2:] / 3
    pixels = camera.project(points)
    np.testing.assert_allclose(camera.unproject(pixels, points[:, 2]), points, atol=1e-9)
    nan = camera.unproject([[np.nan, np.nan], pixels[0]], [1, points[0, 2]])
    np.testing.assert_allclose(nan[1], points[0], atol=1e-9)
    assert np.isnan(nan[0, :2]).all()
    with pytest.raises(ValueError, match="1 of them are too far from the middle"):
        camera.unproject([[9000, 9000], pixels[0]], [1, 1])
    plain = DistortedCamera((1145.0, 1143.8), (512.5, 515.5))
    np.testing.assert_allclose(
        plain.project(points), PinholeCamera((1145.0, 1143.8), (512.5, 515.5)).project(points), atol=1e-4
    )
    assert np.abs(plain.project(points) - pixels).max() > 5
    np.testing.assert_allclose(camera.project([0, 0, 2]), camera.principal_point, atol=1e-4)
    with pytest.raises(ValueError, match="in front of the camera"):
        camera.project([0, 0, -2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: DistortedCamera(1.0, (0, 0), radial_distortion=(1, 2)),
            r"`radial_distortion` must be finite .* \(3,\)",
        ),
        (
            lambda: DistortedCamera(1.0, (0, 0), tangential_distortion=(1, np.inf)),
            "`tangential_distortion` must be finite",
        ),
        (lambda: project_human36m(np.ones((2, 17, 3)), np.ones((1, 9))), "`points` and `intrinsics` must have shapes"),
        (lambda: project_human36m(np.ones((2, 17, 2)), np.ones((2, 9))), "`points` and `intrinsics` must have shapes"),
    ],
    ids=range(4),
)
def test_refuses_what_is_no_lens(call, message):
    with pytest.raises(ValueError, match=message):
        call()
