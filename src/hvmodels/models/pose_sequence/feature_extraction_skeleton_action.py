"""From 3D poses over time to the input of a network that names actions, and from its scores to names."""

from typing import Any, Literal

import numpy as np
from transformers import BatchFeature, FeatureExtractionMixin
from transformers.utils import TensorType

from ...keypoint_sets import (
    KEYPOINT_SETS,
    NTU25,
    KeypointSet,
    canonical_name,
    conversion_matrix,
    convert_keypoints,
    find_keypoint_set,
)
from .input_checks_pose_sequence import is_integer, is_number, joint_names, number_array
from .interpolation_pose_sequence import interpolate_missing
from .skeleton_streams_skeletal_gnn import (
    NTU_BONES,
    STREAMS,
    UP_AXES,
    agcn_normalize,
    ctr_crop_resize,
    ctr_translate,
    find_up_axis,
    make_streams,
    resize_frames,
    turn_upright,
    view_normalize,
)


NORMALIZATIONS = ("view", "agcn", "ctr")
METRES = {"metre": 1.0, "millimetre": 0.001}
# Extent of a person in metres, by which a wrong unit shows where it matters.
LARGEST_EXTENT = 50.0


class SkeletonActionFeatureExtractor(FeatureExtractionMixin):
    """Turns 3D poses into `skeleton_values` for `SkeletalGNNForActionRecognition`, and its scores into names.

    ```python
    features = extractor(poses, keypoint_names="human36m17")  # (frames, joints, 3)
    outputs = model(**features)
    extractor.post_process_action_recognition(outputs, model.config.id2label)[0][0]  # {"label": "walk", "score": 0.9}
    ```

    Args:
        keypoint_names: Joints of the network in its order; None for NTU RGB+D's 25.
        normalization: `"view"` frees each sequence from place, heading, size and unit, for one person, with the axis
            upwards found or given. `"agcn"` and `"ctr"` are those of 2s-AGCN and CTR-GCN on NTU, in metres.
        sampling: `"resize"`: all frames are resampled to `num_frames`. `"pad"`: a sequence gets empty frames at its end
            (which `"agcn"` fills by repeating it), and a longer one is resampled.
        crop_share: With `"resize"`, share of the frames in the middle that is kept; CTR-GCN's tests have 0.95.
        num_frames: Frames of the network's input.
        num_persons: Persons of the network's input.
        streams: What the channels are made of, one after the other: `"joint"`, `"bone"` (joint minus parent), and of both
            `_motion` (next frame minus this one) and `_displacement` (this frame minus the first), as in `"joint_motion"`.
        window_seconds: Length of the parts in which the pipeline names actions in long recordings.
        mirrored_labels: Action that the mirror image of each action shows, -1 for those that have none. If given, the mirror
            image of each sequence is looked at too, at twice the work, and both results are joined; for `"view"`.

    Raises:
        ValueError: On settings out of range or that do not fit each other.
    """

    model_input_names = ["skeleton_values"]

    def __init__(
        self,
        keypoint_names: list[str] | None = None,
        normalization: Literal["view", "agcn", "ctr"] = "agcn",
        sampling: Literal["resize", "pad"] = "pad",
        crop_share: float = 1.0,
        num_frames: int = 300,
        num_persons: int = 2,
        streams: list[str] | tuple[str, ...] = ("joint",),
        window_seconds: float = 5.0,
        mirrored_labels: list[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, choices in (
            ("normalization", normalization, NORMALIZATIONS),
            ("sampling", sampling, ("resize", "pad")),
        ):
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
        for name, value in (("num_frames", num_frames), ("num_persons", num_persons)):
            if not is_integer(value) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if not is_number(crop_share) or not 0 < crop_share <= 1:
            raise ValueError(f"`crop_share` must be in (0, 1], got {crop_share!r}.")
        if not is_number(window_seconds) or window_seconds <= 0:
            raise ValueError(f"`window_seconds` must be a positive number, got {window_seconds!r}.")
        streams = [streams] if isinstance(streams, str) else list(streams)
        if not streams or len(set(streams)) < len(streams) or not set(streams) <= set(STREAMS):
            raise ValueError(f"`streams` must be different ones of {STREAMS}, got {streams}.")
        self.keypoint_names = joint_names(keypoint_names) or list(NTU25.keypoints)
        keypoints = find_keypoint_set(self.keypoint_names)
        if keypoints is None or keypoints.parents is None:
            known = sorted(name for name, keypoints in KEYPOINT_SETS.items() if keypoints.parents is not None)
            raise ValueError(
                f"`keypoint_names` must be those of a set with a skeleton, one of {known}, got {self.keypoint_names}."
            )
        if normalization != "view" and keypoints is not NTU25:
            raise ValueError(f"`normalization` {normalization!r} is for the 25 joints of NTU RGB+D; use 'view'.")
        if mirrored_labels is not None and (
            normalization != "view" or not all(is_integer(label) and label >= -1 for label in mirrored_labels)
        ):
            raise ValueError(
                f"`mirrored_labels` must be integers from -1 on, for `normalization` 'view'; got {mirrored_labels!r} for "
                f"{normalization!r}."
            )
        if normalization == "view" and num_persons != 1:
            raise ValueError(f"`num_persons` must be 1 for `normalization` 'view', got {num_persons}.")
        self.normalization = normalization
        self.sampling = sampling
        self.crop_share = crop_share
        self.num_frames = num_frames
        self.num_persons = num_persons
        self.streams = streams
        self.window_seconds = window_seconds
        self.mirrored_labels = None if mirrored_labels is None else list(mirrored_labels)

    @property
    def keypoints(self) -> KeypointSet:
        """The joints of the network."""
        return find_keypoint_set(self.keypoint_names)

    @property
    def bones(self) -> list[tuple[int, int]]:
        """Child and parent of each bone of the network's skeleton."""
        if self.keypoints is NTU25:
            return list(NTU_BONES)
        return [(joint, parent) for joint, parent in enumerate(self.keypoints.parents) if parent >= 0]

    def _pair(self, part: str) -> tuple[int, int]:
        names = [canonical_name(name) for name in self.keypoint_names]
        return names.index(f"left_{part}"), names.index(f"right_{part}")

    def __call__(
        self,
        poses: Any,
        *,
        keypoint_names: Any = None,
        unit: Literal["metre", "millimetre"] = "metre",
        up: Literal["z", "y", "-y", "-z"] | None = None,
        flip_test: bool | None = None,
        return_tensors: str | TensorType | None = "pt",
    ) -> BatchFeature:
        """Prepare one or several sequences.

        Args:
            poses: One sequence, an array or tensor (frames, joints, 3), or (persons, frames, joints, 3); or a list of such.
                NaN marks missing joints, which are drawn straight between the frames where they were seen (`"view"`) or
                count as absent.
            keypoint_names: Joints of the input: a `KeypointSet`, its name such as `"human36m17"`, or names in any spelling.
                None takes them for the network's.
            unit: Unit of the poses; `"view"` does not depend on it.
            up: Axis that points up, for `"view"`; None finds it by shoulders and hips. Cameras whose y points down have
                `"-y"`.
            flip_test: Whether the mirror images are looked at too; None if there are `mirrored_labels`.
            return_tensors: `"pt"` or `"np"`.

        Returns:
            `skeleton_values` (sequences, 3 * streams, num_frames, joints, num_persons) float32; with the flip test
            (2 * sequences, ...), the mirror images behind the others.

        Raises:
            TypeError: If poses are not arrays of numbers.
            ValueError: If shapes, joints, unit or axes do not fit, or a joint is never seen.
        """
        if unit not in METRES:
            raise ValueError(f"`unit` must be one of {list(METRES)}, got {unit!r}.")
        if up not in (None, *UP_AXES):
            raise ValueError(f"`up` must be one of {UP_AXES}, or None, got {up!r}.")
        if flip_test is None:
            flip_test = self.mirrored_labels is not None
        elif flip_test and self.mirrored_labels is None:
            raise ValueError("`flip_test` needs `mirrored_labels`, the action that each one's mirror image shows.")
        several = isinstance(poses, list | tuple)
        sequences = list(poses) if several else [poses]
        if not sequences:
            raise ValueError("`poses` must hold at least one sequence, got none.")
        values, mirrored = [], []
        for index, sequence in enumerate(sequences):
            name = f"`poses[{index}]`" if several else "`poses`"
            persons = self._read(sequence, keypoint_names, name) * METRES[unit]
            skeletons = self._view(persons, up, name) if self.normalization == "view" else self._ntu(persons, name)
            values.append(make_streams(skeletons.astype(np.float32), self.streams, self.bones))
            if flip_test:
                image = skeletons[:, :, self.keypoints.flip_permutation].astype(np.float32)
                image[0] *= -1
                mirrored.append(make_streams(image, self.streams, self.bones))
        return BatchFeature({"skeleton_values": np.stack(values + mirrored)}, tensor_type=return_tensors)

    @staticmethod
    def fill_missing(poses: np.ndarray) -> np.ndarray:
        """Draw joints that are NaN straight between the frames where they were seen, in (frames, joints, 3).

        Poses of several persons, and joints that are never seen, come back as they are.
        """
        return poses if poses.ndim > 3 else interpolate_missing(poses, np.isnan(poses).any(axis=-1))

    def _read(self, sequence: Any, keypoint_names: Any, name: str) -> np.ndarray:
        """(persons, frames, joints, 3) float64 of the network's joints, NaN where missing."""
        array = number_array(sequence, name)
        if array.ndim not in (3, 4) or array.shape[-1] != 3 or 0 in array.shape:
            hint = "; these are 2D poses, lift them first" if array.ndim > 2 and array.shape[-1] == 2 else ""
            raise ValueError(
                f"{name} must have shape (frames, joints, 3) or (persons, frames, joints, 3), got {array.shape}{hint}."
            )
        array = array if array.ndim == 4 else array[None]
        if np.isinf(array).any():
            raise ValueError(f"{name} must be finite, with NaN for missing joints; it has infinite numbers.")
        if len(array) > self.num_persons:
            raise ValueError(
                f"{name} must have at most {self.num_persons} persons, got {len(array)}; give each by itself."
            )
        source = self._source(keypoint_names, array.shape[2], name)
        if [canonical_name(joint) for joint in source.keypoints] != [canonical_name(j) for j in self.keypoint_names]:
            weights, _ = conversion_matrix(source, self.keypoints)
            lost = [joint for joint, row in zip(self.keypoint_names, weights, strict=True) if not row.any()]
            if lost:
                raise ValueError(f"{name}: the joints of {source.name!r} do not tell {lost}, which the network needs.")
            array = convert_keypoints(array, source, self.keypoints)
        return array

    def _source(self, keypoint_names: Any, joints: int, name: str) -> KeypointSet:
        if keypoint_names is None:
            source = self.keypoints
        elif isinstance(keypoint_names, KeypointSet):
            source = keypoint_names
        elif isinstance(keypoint_names, str):
            if keypoint_names not in KEYPOINT_SETS:
                raise ValueError(
                    f"`keypoint_names` must be one of {sorted(KEYPOINT_SETS)}, or names, got {keypoint_names!r}."
                )
            source = KEYPOINT_SETS[keypoint_names]
        else:
            names = joint_names(keypoint_names)
            source = find_keypoint_set(names) or KeypointSet.from_names([canonical_name(joint) for joint in names])
        if len(source) != joints:
            raise ValueError(
                f"{name} must have the {len(source)} joints of {source.name!r}, got {joints}; say which they are by "
                "`keypoint_names`."
            )
        return source

    def _view(self, persons: np.ndarray, up: str | None, name: str) -> np.ndarray:
        """One person, free from place, heading and size: (3, num_frames, joints, 1)."""
        (poses,) = persons
        missing = np.isnan(poses).any(axis=-1)
        if never := [joint for joint, gone in zip(self.keypoint_names, missing.all(axis=0), strict=True) if gone]:
            raise ValueError(f"{name} must have each joint in at least one frame; {never} are never seen.")
        poses = self.fill_missing(poses)
        hips, shoulders = self._pair("hip"), self._pair("shoulder")
        if up is None:
            up = find_up_axis(poses, hips, shoulders)
            if up is None:
                raise ValueError(
                    f"{name}: shoulders are not above hips along y or z in most frames, so that the axis upwards cannot be "
                    f"told; give `up`, one of {UP_AXES}."
                )
        poses = view_normalize(turn_upright(poses, up), self.bones, hips, shoulders)
        return self._sample(poses.transpose(2, 0, 1)[..., None])

    def _ntu(self, persons: np.ndarray, name: str) -> np.ndarray:
        """NTU's joints in metres: (3, num_frames, joints, num_persons)."""
        extent = np.nanmax(np.abs(persons)) if not np.isnan(persons).all() else 0
        if extent > LARGEST_EXTENT:
            raise ValueError(
                f"{name} must be in metres; joints are {extent:.0f} from the origin. For millimetres give "
                "`unit='millimetre'`."
            )
        skeletons = np.nan_to_num(persons).transpose(3, 1, 2, 0).astype(np.float32)
        if not skeletons.any():
            raise ValueError(f"{name} must have a frame with a person; all numbers are 0 or NaN.")
        absent = self.num_persons - skeletons.shape[3]
        skeletons = np.pad(skeletons, [(0, 0)] * 3 + [(0, absent)])
        if self.normalization == "ctr":
            return self._sample(ctr_translate(skeletons))
        return (
            agcn_normalize(self._sample(skeletons))
            if self.sampling == "pad"
            else self._sample(agcn_normalize(skeletons))
        )

    def _sample(self, skeletons: np.ndarray) -> np.ndarray:
        if self.sampling == "pad" and skeletons.shape[1] <= self.num_frames:
            return np.pad(skeletons, [(0, 0), (0, self.num_frames - skeletons.shape[1]), (0, 0), (0, 0)])
        if self.normalization == "view" or self.sampling == "pad":
            return resize_frames(skeletons, self.num_frames)
        return ctr_crop_resize(skeletons, self.num_frames, self.crop_share)

    def post_process_action_recognition(
        self, outputs: Any, id2label: dict[int, str], top_k: int | None = None, flip_test: bool | None = None
    ) -> list[list[dict[str, Any]]]:
        """Names and probabilities, best first.

        Args:
            outputs: Output of the model with `logits` (sequences, actions).
            id2label: Names of the actions, as in the model's configuration.
            top_k: How many to give, all if None.
            flip_test: As in the call that prepared the sequences.

        Returns:
            For each sequence a list of `{"label", "score"}`.

        Raises:
            ValueError: If the logits are not those of sequences and their mirror images, as many as `mirrored_labels`.
        """
        logits = outputs["logits"].float()
        if self.mirrored_labels is not None if flip_test is None else flip_test:
            logits = self._join_mirrored(logits)
        probabilities = logits.softmax(dim=-1)
        count = min(top_k or probabilities.shape[-1], probabilities.shape[-1])
        scores, indices = probabilities.topk(count, dim=-1)
        return [
            [{"label": id2label[index], "score": score} for index, score in zip(*row, strict=True)]
            for row in zip(indices.tolist(), scores.tolist(), strict=True)
        ]

    def _join_mirrored(self, logits: Any) -> Any:
        """Mean logarithm of the probability of an action in the sequence and of its mirror image in the mirrored one."""
        labels = self.mirrored_labels or []
        if logits.shape[-1] != len(labels) or len(logits) % 2:
            raise ValueError(
                f"`outputs` must have logits of {len(labels)} actions (`mirrored_labels`) for sequences and their mirror images, "
                f"got shape {tuple(logits.shape)}."
            )
        plain, mirrored = logits.log_softmax(dim=-1).chunk(2)
        has_image = logits.new_tensor([label >= 0 for label in labels]).bool()
        return (plain + mirrored[:, [max(label, 0) for label in labels]].where(has_image, plain)) / 2


__all__ = ["SkeletonActionFeatureExtractor"]
