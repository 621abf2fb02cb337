import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from safetensors.numpy import load_file

from hvmodels.models.rle.cropping_rle import (
    boxes_to_center_scale,
    camera_to_pixels,
    center_scale_to_boxes,
    clip_ground_truth_boxes,
    crop_matrices,
    decode_keypoints,
    encode_keypoints,
    instance_scores,
    pixels_to_camera,
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


@pytest.fixture(scope="module")
def preprocess(shared_data):
    """What the original made of one image with OpenCV 4.5.5."""
    return load_file(shared_data / "parity" / "rle" / "preprocess" / "io.safetensors")


@pytest.fixture(scope="module")
def mmpose(shared_data):
    return load_file(shared_data / "parity" / "rle" / "mmpose2d_bottleneck_tiny" / "io.safetensors")


@pytest.fixture(scope="module")
def human36m(shared_data):
    return load_file(shared_data / "parity" / "rle" / "h36m_eval" / "io.safetensors")


def read_box(tensors, case):
    if f"{case}.input.bbox_xyxy" in tensors:
        return tensors[f"{case}.input.bbox_xyxy"]
    x, y, width, height = tensors[f"{case}.input.bbox_xywh"]
    return np.array([x, y, x + width, y + height])


def normalize_2d(crop):
    """(height, width, 3) uint8 as the original's network takes it."""
    return np.moveaxis(crop / 255 - (0.406, 0.457, 0.480), -1, 0)


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
    values = normalize_2d(crops[0]) / (1 if case.startswith("det") else np.reshape((0.225, 0.224, 0.229), (3, 1, 1)))
    assert_allclose(values.sum(), preprocess[f"{case}.check.pixel_sum.opencv4"][0], rtol=0, atol=0.02)


@pytest.mark.parametrize("case", BOXES)
def test_decoded_keypoints_are_the_originals(preprocess, case):
    keypoints = decode_keypoints(
        preprocess[f"{case}.input.pred_jts"][None], preprocess[f"{case}.output.crop_bbox_xyxy"][None], BOXES[case][0]
    )
    assert keypoints.dtype == np.float64
    # Its matrix comes from points in float32.
    assert_allclose(keypoints[0], preprocess[f"{case}.output.keypoints"], rtol=0, atol=1.3e-5)
