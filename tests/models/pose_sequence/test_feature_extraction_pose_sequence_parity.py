"""Feature extractors of pose sequences against what the originals' loaders gave to their networks."""

import numpy as np
import torch
from safetensors.numpy import load_file

from hvmodels.models.pose_sequence import DeciWatchFeatureExtractor, SmoothNetFeatureExtractor
from tests.reference_cases import needs_reference, reference_folder


def originals_tracks(case, name, num_joints, count=3):
    return [case[f"{name}.{index}"].reshape(len(case[f"{name}.{index}"]), num_joints, -1) for index in range(count)]


def assert_windows_equal(features, case, stride):
    """The model's input windows, as far as they lie within a sequence, are the original's."""
    for index, (values, mask) in enumerate(zip(features["pose_values"], features["pose_mask"], strict=True)):
        windows = case[f"intermediate.input_windows.{index}"]
        values = values[mask].flatten(1).numpy()
        assert len(windows) == max(0, len(values) - windows.shape[1]) // stride + 1
        for start, window in enumerate(windows):
            part = values[start * stride :][: windows.shape[1]]
            np.testing.assert_allclose(part, window[: len(part)], atol=1e-6)
            assert not window[len(part) :].any()


def assert_pixels_equal(extractor, features, case, name):
    """The original's result, of its own length, comes back in pixels as the original does it."""
    num_joints = features["pose_values"].shape[2]
    refined = [torch.from_numpy(array) for array in originals_tracks(case, name, num_joints)]
    lengths = torch.tensor([[len(array)] for array in refined])
    outputs = {
        extractor.output_name: torch.nn.utils.rnn.pad_sequence(refined, batch_first=True),
        "refined_mask": torch.arange(lengths.max()) < lengths,
    }
    results = extractor.post_process_pose_refinement(outputs, features)
    for result, expected in zip(results, originals_tracks(case, f"{name}_pixels", num_joints), strict=True):
        np.testing.assert_allclose(result["poses"], expected, atol=1e-3)


def test_smoothnet_2d_of_the_original(fixtures):
    case = load_file(fixtures / "smoothnet" / "h36m_2d_w8" / "io.safetensors")
    extractor = SmoothNetFeatureExtractor(normalization="image", image_scale=2, image_offset=-1)
    features = extractor(originals_tracks(case, "input.pred", 17), image_size=(1000, 1000))
    assert_windows_equal(features, case, 1)
    assert_pixels_equal(extractor, features, case, "output.sequence")


@needs_reference("smoothnet", "h36m_3d_w32")
def test_smoothnet_3d_of_the_original():
    case = load_file(reference_folder("smoothnet", "h36m_3d_w32") / "io.safetensors")
    assert_windows_equal(SmoothNetFeatureExtractor(unit="metre")(originals_tracks(case, "input.pred", 17)), case, 1)


def test_deciwatch_3d_of_the_original(fixtures):
    case = load_file(fixtures / "deciwatch" / "h36m_3d_n10_q2" / "io.safetensors")
    extractor = DeciWatchFeatureExtractor(num_joints=17, joint_dim=3, unit="metre", root_indices=[0])
    assert_windows_equal(extractor(originals_tracks(case, "input.pred", 17)), case, 10)


def test_deciwatch_2d_of_the_original(fixtures):
    case = load_file(fixtures / "deciwatch" / "jhmdb_2d_n5_q3" / "io.safetensors")
    extractor = DeciWatchFeatureExtractor(sample_interval=5, num_joints=15, joint_dim=2, normalization="image")
    height, width, _ = case["input.imgshape.0"]
    features = extractor(originals_tracks(case, "input.pred", 15), image_size=(width, height))
    assert_windows_equal(features, case, 5)
    assert_pixels_equal(extractor, features, case, "output.recover_sequence")
