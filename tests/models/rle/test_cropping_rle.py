import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file

from hvmodels.models.rle.cropping_rle import (
    boxes_to_center_scale,
    center_scale_to_boxes,
    clip_ground_truth_boxes,
    crop_matrices,
    decode_keypoints,
    encode_keypoints,
    instance_scores,
    warp_crops,
)


COCO_PAIRS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12], [13, 14], [15, 16]]
# Case, (height, width) of the crop, padding
BOXES = {
    **{f"det_128x96.box{index}": ((128, 96), 1.25) for index in range(4)},
    "det_256x192.box0": ((256, 192), 1.25),
    "h36m_128x128.box0": ((128, 128), 1.0),
    "h36m_128x128.box1": ((128, 128), 1.0),
    "mpii_128x128.box0": ((128, 128), 1.25),
}


H36M_PAIRS = [[1, 4], [2, 5], [3, 6], [14, 11], [15, 12], [16, 13]]
MPII_TO_H36M = [6, 2, 1, 0, 3, 4, 5, -1, 8, -1, 9, 13, 14, 15, 12, 11, 10, 7]


@pytest.fixture(scope="module")
def preprocess(fixtures):
    """What the original made of one image with OpenCV 4.5.5."""
    return load_file(fixtures / "rle" / "preprocess" / "io.safetensors")


@pytest.fixture(scope="module")
def mmpose(fixtures):
    return load_file(fixtures / "rle" / "mmpose2d_bottleneck_tiny" / "io.safetensors")


@pytest.fixture(scope="module")
def human36m(fixtures):
    return load_file(fixtures / "rle" / "h36m_eval" / "io.safetensors")


def read_box(tensors, case):
    if f"{case}.input.bbox_xyxy" in tensors:
        return tensors[f"{case}.input.bbox_xyxy"]
    x, y, width, height = tensors[f"{case}.input.bbox_xywh"]
    return np.array([x, y, x + width, y + height])


def normalize_2d(crop):
    """(height, width, 3) uint8 as the original's network takes it."""
    return np.moveaxis(crop / 255 - (0.406, 0.457, 0.480), -1, 0)


def normalize_3d(crop):
    return normalize_2d(crop) / np.reshape((0.225, 0.224, 0.229), (3, 1, 1))


def warp_slowly(image, matrix, size):
    """The arithmetic of OpenCV 4 as its specification says, a pixel at a time."""
    (a, b, x0), (c, d, y0) = matrix
    scale = 1 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale
    x0, y0 = -a * x0 - b * y0, -c * x0 - d * y0
    crop = np.zeros((*size, 3), dtype=np.uint8)
    for row in range(size[0]):
        for column in range(size[1]):
            x = (round(1024 * (b * row + x0)) + 16 + round(1024 * a * column)) >> 5
            y = (round(1024 * (d * row + y0)) + 16 + round(1024 * c * column)) >> 5
            total = np.zeros(3, dtype=np.int64)
            for below in (0, 1):
                for right in (0, 1):
                    i, j = (y >> 5) + below, (x >> 5) + right
                    if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
                        weight = (y & 31 if below else 32 - (y & 31)) * (x & 31 if right else 32 - (x & 31)) * 32
                        total += weight * image[i, j].astype(np.int64)
            crop[row, column] = (total + 16384) >> 15
    return crop


def make_image(height=40, width=50, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The original


@pytest.mark.parametrize("case", BOXES)
def test_box_to_crop_is_the_originals(preprocess, case):
    size, padding = BOXES[case]
    output = {name: preprocess[f"{case}.output.{name}"] for name in ("center", "scale", "crop_bbox_xyxy", "trans")}
    centers, scales = boxes_to_center_scale(read_box(preprocess, case)[None], size[1] / size[0], padding)
    assert centers.dtype == scales.dtype == np.float32
    assert_allclose(centers[0], output["center"], rtol=0, atol=1e-6)
    assert_allclose(scales[0], output["scale"], rtol=0, atol=1e-6)
    assert_allclose(center_scale_to_boxes(centers, scales)[0], output["crop_bbox_xyxy"], rtol=0, atol=1e-6)
    matrices = crop_matrices(centers, scales, None, size)
    assert_allclose(matrices[0], output["trans"], rtol=0, atol=1e-5)

    crops = warp_crops(preprocess["input.image"], matrices, size)
    if f"{case}.output.crop_uint8.opencv4" in preprocess:
        assert_array_equal(crops[0], preprocess[f"{case}.output.crop_uint8.opencv4"])
    values = (normalize_2d if case.startswith("det") else normalize_3d)(crops[0])
    assert_allclose(values.sum(), preprocess[f"{case}.check.pixel_sum.opencv4"][0], rtol=0, atol=0.02)


@pytest.mark.parametrize("case", BOXES)
def test_decoded_keypoints_are_the_originals(preprocess, case):
    keypoints = decode_keypoints(
        preprocess[f"{case}.input.pred_jts"][None], preprocess[f"{case}.output.crop_bbox_xyxy"][None], BOXES[case][0]
    )
    assert keypoints.dtype == np.float64
    # Its matrix comes from points in float32.
    assert_allclose(keypoints[0], preprocess[f"{case}.output.keypoints"], rtol=0, atol=1.3e-5)


def test_annotated_boxes_are_the_originals(preprocess):
    width, height = preprocess["gt_bbox.input.image_wh"]
    boxes, valid = clip_ground_truth_boxes(preprocess["gt_bbox.input.bbox_xywh"], (height, width))
    assert_allclose(boxes, preprocess["gt_bbox.output.bbox_xyxy"], rtol=0, atol=1e-12)
    assert valid.tolist() == [True, True, True, False]
    centers_scales = np.concatenate(boxes_to_center_scale(boxes, 96 / 128), axis=1)
    assert_allclose(centers_scales, preprocess["gt_bbox.output.center_scale"], rtol=0, atol=1e-6)


def mirror(points, visibility, image_width, pairs):
    """As the original mirrors the labels of an image before it cuts a crop out of the mirrored image."""
    order = np.arange(len(points))
    for left, right in pairs:
        order[[left, right]] = right, left
    points, visibility = points[order], visibility[order]
    points[:, 0] = image_width - 1 - points[:, 0]
    return points * visibility, visibility


def read_crop(tensors, case, size):
    """The matrix of a training sample, whose random draws are stored."""
    matrices = crop_matrices(
        *(tensors[f"{case}.param.{name}"][None] for name in ("center", "scale")),
        tensors[f"{case}.param.rotation_deg"],
        size,
    )
    assert_allclose(matrices[0], tensors[f"{case}.output.trans"], rtol=0, atol=1e-5)
    return matrices


def check_targets(tensors, case, name, targets, weights):
    """Targets count where they have a weight; without one the original leaves any value there."""
    assert targets.dtype == weights.dtype == np.float32
    assert_array_equal(weights.reshape(-1), tensors[f"{case}.output.{name}_weight"])
    expected = weights.reshape(-1) * tensors[f"{case}.output.{name}"]
    assert_allclose(targets.reshape(-1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("index", range(5))
def test_training_samples_are_the_originals(preprocess, index):
    case, image, size = f"train_128x96.sample{index}", preprocess["input.image"], (128, 96)
    keypoints, visibility = preprocess[f"{case}.input.joints_xy"], preprocess[f"{case}.input.joints_vis"][:, None]
    if preprocess[f"{case}.param.flip"][0]:
        keypoints, visibility = mirror(keypoints, visibility, image.shape[1], COCO_PAIRS)
        image = image[:, ::-1]
    matrices = read_crop(preprocess, case, size)
    targets, weights = encode_keypoints(keypoints[None], visibility[None], matrices, size)
    check_targets(preprocess, case, "target_uv", targets, weights)
    boxes = center_scale_to_boxes(*(preprocess[f"{case}.param.{name}"] for name in ("center", "scale")))
    assert_allclose(boxes, preprocess[f"{case}.output.crop_bbox_xyxy"], rtol=0, atol=1e-5)
    if index == 3:
        difference = warp_crops(image, matrices, size)[0] - preprocess[f"{case}.output.crop_uint8.opencv4"].astype(int)
        # Turned, and the original's matrix comes from points in float32.
        assert np.abs(difference).max() <= 1
        assert (difference != 0).sum() <= 5


@pytest.mark.parametrize("case", ["h36m_128x128.box0", "h36m_128x128.box1", "mpii_128x128.box0"])
def test_targets_with_depth_are_the_originals(preprocess, case):
    size, padding = BOXES[case]
    matrices = crop_matrices(*boxes_to_center_scale(read_box(preprocess, case), 1, padding), None, size)
    keypoints, visibility = (preprocess[f"{case}.input.joint_{name}"][None] for name in ("img", "vis"))
    check_targets(preprocess, case, "target_uvd", *encode_keypoints(keypoints, visibility, matrices, size))


@pytest.mark.parametrize("index", range(4))
def test_human36m_training_items_are_the_originals(human36m, index):
    case, size = f"train_item{index}", (128, 128)
    matrices = read_crop(human36m, case, size)
    if human36m[f"{case}.param.is_mpii"][0]:
        sources = np.array(MPII_TO_H36M)
        keypoints = np.pad(human36m["mpii.input.keypoints"][sources, :2], ((0, 0), (0, 1)))
        visibility = np.outer(sources >= 0, (1, 1, 0))
    else:
        label = int(human36m[f"{case}.param.label_index"][0])
        keypoints, visibility = human36m[f"label{label}.output.joint_img"], np.ones((18, 3))
    if human36m[f"{case}.param.flip"][0]:
        width = human36m["item0.input.image"].shape[1]
        keypoints, visibility = mirror(keypoints, visibility, width, H36M_PAIRS)
    targets, weights = encode_keypoints(keypoints[None], visibility[None], matrices, size)
    check_targets(human36m, case, "target_uvd", targets, weights)


def test_human36m_item_is_the_originals(human36m):
    size = (128, 128)
    centers, scales = boxes_to_center_scale(human36m["label0.output.bbox_xyxy"], 1, 1.0)
    crop_boxes = center_scale_to_boxes(centers, scales)
    assert_allclose(crop_boxes[0], human36m["item0.output.crop_bbox_xyxy"], rtol=0, atol=2e-5)
    matrices = crop_matrices(centers, scales, None, size)
    values = normalize_3d(warp_crops(human36m["item0.input.image"], matrices, size)[0])
    assert_allclose(values.sum(), human36m["item0.check.pixel_sum.opencv4"][0], rtol=0, atol=0.02)
    keypoints = human36m["label0.output.joint_img"][None]
    check_targets(human36m, "item0", "target_uvd", *encode_keypoints(keypoints, np.ones((1, 18)), matrices, size))


@pytest.mark.parametrize("case", ["crop.box0", "crop.box1"])
def test_mmpose_crops(mmpose, preprocess, case):
    size = (96, 64)
    centers, scales = boxes_to_center_scale(read_box(mmpose, case), 64 / 96)
    assert_allclose(centers[0], mmpose[f"{case}.output.center"], rtol=0, atol=1e-6)
    assert_allclose(scales[0], mmpose[f"{case}.output.scale"], rtol=0, atol=2e-5)
    matrices = crop_matrices(centers, scales, None, size)
    assert_allclose(matrices[0], mmpose[f"{case}.output.trans"], rtol=0, atol=1e-5)
    if f"{case}.output.crop_uint8.opencv4" in mmpose:
        crops = warp_crops(preprocess["input.image"], matrices, size)
        assert_array_equal(crops[0], mmpose[f"{case}.output.crop_uint8.opencv4"])
    keypoints = mmpose[f"{case}.input.normalized"][..., :2] - 0.5
    decoded = decode_keypoints(keypoints, center_scale_to_boxes(centers, scales), size)
    assert_allclose(decoded, mmpose[f"{case}.output.keypoints"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", ["crop.box0", "crop.box1"])
def test_mmpose_targets(mmpose, case):
    size = (96, 64)
    keypoints, visibility = mmpose[f"{case}.input.keypoints_crop_space"], mmpose[f"{case}.input.visible"]
    identity = np.eye(3)[None, :2]
    targets, weights = encode_keypoints(keypoints, visibility, identity, size, drop_outside=True)
    expected = mmpose[f"{case}.output.keypoint_weights"]
    assert 0 < expected.sum() < expected.size
    assert_array_equal(weights, np.repeat(expected[..., None], 2, axis=2))
    expected = weights * (mmpose[f"{case}.output.keypoint_labels"] - 0.5)
    assert_allclose(targets, expected, rtol=0, atol=1e-6)


# The arithmetic


@pytest.mark.parametrize("rotation", [None, 20.0, 90.0, 180.0])
@pytest.mark.parametrize("scale", [9.0, 31.7, 200.0], ids=["magnified", "cut", "shrunk"])
@pytest.mark.parametrize("center", [(20.3, 17.8), (-3.1, 41.6)], ids=["inside", "at the corner"])
def test_warp_is_the_pixelwise_arithmetic(center, scale, rotation):
    image, size = make_image(), (14, 11)
    rotations = None if rotation is None else [rotation]
    matrices = crop_matrices(np.array([center]), np.full((1, 2), scale), rotations, size)
    assert_array_equal(warp_crops(image, matrices, size)[0], warp_slowly(image, matrices[0], size))


def test_crops_do_not_depend_on_each_other():
    image, size = make_image(), (16, 12)
    centers = np.array([[20, 17], [4.5, 30], [500, -300], [45, 3]])
    matrices = crop_matrices(centers, [[20, 30], [90, 120], [20, 30], [7, 9]], [0, 0, 0, 33], size)
    crops = warp_crops(image, matrices, size)
    assert crops.shape == (4, 16, 12, 3)
    assert not crops[2].any()
    for matrix, crop in zip(matrices, crops, strict=True):
        assert_array_equal(warp_crops(image, matrix[None], size)[0], crop)


def test_unlabelled_keypoints_get_target_and_weight_0():
    keypoints = np.array([[[3, 4, 100], [np.nan, np.nan, np.nan], [7, 8, np.nan], [5, np.inf, 0]]])
    visibility = np.array([[[2, 2, 2], [0, 0, 0], [1, 1, 0], [0, 0, 0]]])
    targets, weights = encode_keypoints(keypoints, visibility, np.eye(3)[None, :2], (20, 10), depth_scale=1000)
    assert_array_equal(weights[0], [[1, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert_allclose(targets[0], [[-0.2, -0.3, 0.1], [0, 0, 0], [0.2, -0.1, 0], [0, 0, 0]], atol=1e-7)
    targets, weights = encode_keypoints(keypoints[..., :2], visibility[..., 0], np.eye(3)[None, :2], (20, 10))
    assert_array_equal(weights[0], [[1, 1], [0, 0], [1, 1], [0, 0]])
    assert_allclose(targets[0], [[-0.2, -0.3], [0, 0], [0.2, -0.1], [0, 0]], atol=1e-7)


def test_labelled_keypoints_must_be_finite():
    with pytest.raises(ValueError, match="`keypoints` must hold finite coordinates where `visibility` is above 0"):
        encode_keypoints(np.full((1, 2, 2), np.nan), np.array([[0, 1]]), np.eye(3)[None, :2], (20, 10))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [1, 1, 1]), ({"drop_outside": True}, [1, 0, 0]), ({"drop_outside": False}, [1, 1, 1])],
)
def test_dropping_keypoints_outside_the_crop(options, expected):
    keypoints = np.array([[[9.0, 19.0], [9.5, 3.0], [5.0, -1.0]]])
    _, weights = encode_keypoints(keypoints, np.ones((1, 3)), np.eye(3)[None, :2], (20, 10), **options)
    assert_array_equal(weights[0, :, 0], expected)


@pytest.mark.parametrize(("options", "expected"), [({}, [1, 1, 0, 0]), ({"drop_outside": False}, [1, 1, 1, 1])])
def test_dropping_keypoints_outside_the_crop_or_its_depth(options, expected):
    keypoints = np.array([[[9.0, 19.0, 1000.0], [9.5, 3.0, -1000.0], [5.0, -1.0, 0.0], [5.0, 1.0, 1001.0]]])
    _, weights = encode_keypoints(keypoints, np.ones((1, 4)), np.eye(3)[None, :2], (20, 10), **options)
    assert_array_equal(weights[0, :, 2], expected)


def test_decoding_inverts_encoding():
    size, generator = (32, 24), np.random.default_rng(0)
    centers, scales = boxes_to_center_scale(np.array([[3, 4, 30, 25], [-7.5, 2, 10, 60]]), 24 / 32)
    keypoints = generator.uniform(-5, 40, (2, 6, 3))
    matrices = crop_matrices(centers, scales, None, size)
    targets, _ = encode_keypoints(keypoints, np.ones((2, 6)), matrices, size, depth_scale=1, drop_outside=False)
    decoded = decode_keypoints(targets, center_scale_to_boxes(centers, scales), size)
    assert_allclose(decoded, keypoints, rtol=0, atol=2e-5)


def test_instance_scores():
    scores = np.array([[0.2, 0.4], [0.5, 0.9]])
    assert_allclose(instance_scores(scores), [0.7, 1.6])
    assert_allclose(instance_scores(scores, [1.0, 0.5]), [1.7, 2.1])


def test_no_boxes():
    centers, scales = boxes_to_center_scale(np.zeros((0, 4)), 0.75)
    matrices = crop_matrices(centers, scales, None, (16, 12))
    assert warp_crops(make_image(), matrices, (16, 12)).shape == (0, 16, 12, 3)
    assert decode_keypoints(np.zeros((0, 5, 2)), center_scale_to_boxes(centers, scales), (16, 12)).shape == (0, 5, 2)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_only_rgb_images_of_8_bits_are_cut(image):
    with pytest.raises(ValueError, match=r"`image` must have shape \(height, width, 3\) and type uint8"):
        warp_crops(image, np.eye(3)[None, :2], (4, 4))
