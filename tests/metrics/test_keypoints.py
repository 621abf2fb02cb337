import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hvmodels.keypoint_sets import COCO17, CROWDPOSE14
from hvmodels.metrics.keypoints import (
    KeypointEvaluator,
    match_greedily,
    percentage_of_correct_keypoints,
    read_detections,
    regression_accuracy,
)
from hvmodels.metrics.oks import object_keypoint_similarity, oks_nms
from tests.reference_cases import reference_case, reference_folder


CASES = [("metrics_coco17", "coco", COCO17), ("metrics_crowdpose14", "crowdpose", CROWDPOSE14)]


def evaluator_of(folder, style, sigmas=None):
    """An evaluator with the case's predictions; its boxes are in a file of their own, in the same order."""
    evaluator = KeypointEvaluator(folder / "gt.json", sigmas, style)
    results = json.loads((folder / "dt_keypoints.json").read_text())
    boxes = json.loads((folder / "dt_boxes.json").read_text())
    assert [item["score"] for item in results] == [item["score"] for item in boxes]
    evaluator.add_results({**result, "bbox": box["bbox"]} for result, box in zip(results, boxes, strict=True))
    return evaluator


@pytest.mark.parametrize(("case", "style", "keypoint_set"), CASES, ids=["coco", "crowdpose"])
def test_equals_the_originals(fixtures, case, style, keypoint_set):
    """`expected.json` was computed by pycocotools and crowdposetools."""
    folder = fixtures / "edpose" / case
    expected = json.loads((folder / "expected.json").read_text())
    evaluator = evaluator_of(folder, style)
    reference = dict(zip(expected["keypoints_names"], expected["keypoints"], strict=True))
    reference.pop("(unused)", None)
    assert evaluator.compute() == pytest.approx(reference, abs=1e-9)
    assert evaluator.compute() == evaluator_of(folder, style, sigmas=keypoint_set.sigmas).compute()
    assert len(expected["oks"]) == len(evaluator.images)
    for key, value in expected["oks"].items():
        oks = evaluator.oks(int(key.split("_")[0]))
        np.testing.assert_allclose(oks, np.reshape(value, oks.shape), rtol=0, atol=1e-9)


def test_boxes_equal_the_original(fixtures):
    folder = fixtures / "edpose" / "metrics_coco17"
    expected = json.loads((folder / "expected.json").read_text())
    names = [name.replace("APs", "AP_small").replace("APm", "AP_medium") for name in expected["bbox_names"]]
    names = [name.replace("APl", "AP_large").replace("ARs", "AR_small") for name in names]
    names = [name.replace("ARm", "AR_medium").replace("ARl", "AR_large") for name in names]
    reference = dict(zip(names, expected["bbox"], strict=True))
    assert evaluator_of(folder, "coco").compute_boxes() == pytest.approx(reference, abs=1e-9)


def random_case(seed, num_keypoints, num_images=25):
    """Annotations and results with crowds, duplicates, equal scores, empty images and unlabelled persons."""
    random = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in random.permutation(num_images).tolist():
        images.append({"id": image_id, "width": 640, "height": 480, "crowdIndex": float(random.random())})
        for _ in range(random.integers(0, 6)):
            corner, size = random.uniform(0, 400, 2), random.uniform(5, 220, 2)
            visible = random.integers(0, 3, num_keypoints) * (random.random() > 0.15)
            points = corner + random.random((num_keypoints, 2)) * size
            crowd = int(random.random() < 0.15)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod() * random.uniform(0.3, 0.8)),
                    "keypoints": np.column_stack([points, visible]).ravel().tolist(),
                    "num_keypoints": int((visible > 0).sum()),
                    "iscrowd": crowd,
                }
            )
            for _ in range(random.integers(0, 8)):
                moved = points + random.normal(0, random.choice([1, 4, 12, 40]), points.shape)
                box = [*(corner + random.normal(0, 4, 2)).tolist(), *(size * random.uniform(0.7, 1.2, 2)).tolist()]
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": 1,
                        "keypoints": np.column_stack([moved, np.ones(num_keypoints)]).ravel().tolist(),
                        "bbox": box,
                        "score": float(random.integers(1, 30) / 30),
                    }
                )
    categories = [{"id": 1, "name": "person", "keypoints": [str(i) for i in range(num_keypoints)]}]
    return {"images": images, "annotations": annotations, "categories": categories}, results


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["coco", "crowdpose", "custom", "boxes"])
def test_equals_faster_coco_eval(kind, seed):
    library = pytest.importorskip("faster_coco_eval")
    num_keypoints = {"crowdpose": 14, "custom": 6}.get(kind, 17)
    sigmas = {"crowdpose": CROWDPOSE14.sigmas, "custom": np.linspace(0.03, 0.12, 6)}.get(kind, COCO17.sigmas)
    truth, results = random_case(seed, num_keypoints)
    evaluator = KeypointEvaluator(truth, sigmas, "crowdpose" if kind == "crowdpose" else "coco")
    evaluator.add_results(results)
    if kind == "boxes":
        reference_truth, results = truth, [{key: item[key] for key in item if key != "keypoints"} for item in results]
    else:
        reference_truth, results = truth, [{key: item[key] for key in item if key != "bbox"} for item in results]
    reference_truth = library.COCO(json.loads(json.dumps(reference_truth)))
    reference = library.COCOeval_faster(
        reference_truth,
        reference_truth.loadRes(results),
        iouType={"crowdpose": "keypoints_crowd", "boxes": "bbox"}.get(kind, "keypoints"),
        kpt_oks_sigmas=np.asarray(sigmas),
        use_area=kind != "crowdpose",
    )
    reference.run()
    computed = evaluator.compute_boxes() if kind == "boxes" else evaluator.compute()
    values = np.array(list(computed.values()))
    expected = np.array(reference.stats)
    expected = expected[[0, 1, 2, 5, 6, 7, 8, 9, 10]] if len(expected) == 11 else expected[: len(values)]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


def test_every_form_of_predictions(fixtures):
    """COCO's results, the pipeline's persons and the processor's tensors give the same numbers."""
    folder = fixtures / "edpose" / "metrics_coco17"
    reference = evaluator_of(folder, "coco")
    from_lists, from_tensors = (KeypointEvaluator(folder / "gt.json") for _ in range(2))
    for image_id, found in reference.predictions.items():
        corners = np.concatenate([found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]], axis=1)
        persons = [
            {
                "score": score,
                "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
                "keypoints": [{"label": "any", "x": x, "y": y, "score": score} for x, y in points],
            }
            for score, points, box in zip(found.scores, found.keypoints, corners, strict=True)
        ]
        from_lists.update(image_id, persons[::-1])
        from_lists.update(image_id, persons)  # takes the place of the former
        empty = {"scores": torch.tensor([0.9]), "labels": torch.tensor([0])}  # label 0 is no person
        from_tensors.update(
            torch.tensor(image_id),
            {
                "scores": torch.cat([torch.from_numpy(found.scores), empty["scores"]]),
                "labels": torch.cat([torch.ones(len(persons), dtype=torch.long), empty["labels"]]),
                "boxes": torch.from_numpy(np.concatenate([corners, corners[:1]])),
                "keypoints": torch.from_numpy(np.concatenate([found.keypoints, found.keypoints[:1]])),
            },
        )
    for evaluator in (from_lists, from_tensors):
        assert evaluator.compute() == reference.compute()
        assert evaluator.compute_boxes() == pytest.approx(reference.compute_boxes(), abs=1e-12)


def test_processes_gather(fixtures):
    folder = fixtures / "edpose" / "metrics_crowdpose14"
    whole = evaluator_of(folder, "crowdpose")
    gathered = KeypointEvaluator(folder / "gt.json", style="crowdpose")
    image_ids = list(whole.predictions)
    for share in (image_ids[::2], image_ids[1::2], image_ids[:1]):  # the last as a sampler repeats images
        gathered.predictions.update({image_id: whole.predictions[image_id] for image_id in share})
    assert gathered.compute() == whole.compute()


def test_nobody_there_and_nothing_found(fixtures):
    truth, _ = random_case(0, 17)
    evaluator = KeypointEvaluator(truth)
    evaluator.update(3, [])
    assert set(evaluator.compute().values()) == {0.0}
    assert set(evaluator.compute_boxes().values()) == {0.0}
    nobody = KeypointEvaluator({**truth, "annotations": []}, style="crowdpose")
    assert set(nobody.compute().values()) == {-1.0}


def named_case(names):
    """A case with named keypoints, and its results as the pose pipeline gives them."""
    truth, results = random_case(0, len(names))
    truth["categories"][0]["keypoints"] = list(names)
    persons = {image["id"]: [] for image in truth["images"]}
    for result in results:
        points = np.reshape(result["keypoints"], (-1, 3)).tolist()
        keypoints = [{"label": name, "x": x, "y": y} for name, (x, y, _) in zip(names, points, strict=True)]
        persons[result["image_id"]].append({"score": result["score"], "keypoints": keypoints})
    return truth, results, persons


def test_keypoints_go_by_their_names():
    """A model may have more keypoints than are annotated, in another order and spelling."""
    truth, results, persons = named_case(COCO17.keypoints)
    by_position, by_name = KeypointEvaluator(truth), KeypointEvaluator(truth)
    by_position.add_results(results)
    for image_id, found in persons.items():
        for person in found:
            for point in person["keypoints"]:
                point["label"] = point["label"].replace("left", "L").replace("right", "R").title()
            extra = {"label": "neck", "x": 1e4, "y": 1e4}
            person["keypoints"] = [extra, *person["keypoints"][::-1], {**extra, "label": "head"}]
        by_name.update(image_id, found)
    assert found[0]["keypoints"][1]["label"] == "R_Ankle"
    assert by_name.compute() == by_position.compute()
    assert by_name.keypoint_order(reversed(COCO17.keypoints)) == list(range(16, -1, -1))
    with pytest.raises(ValueError, match=r"no keypoints \['nose'\], which are annotated; it has \['left_eye'"):
        by_name.keypoint_order(COCO17.keypoints[1:])


def test_keypoints_of_other_names_go_by_their_place():
    truth, results, persons = named_case(COCO17.keypoints)
    expected, evaluator = KeypointEvaluator(truth), KeypointEvaluator(truth)
    expected.add_results(results)
    for image_id, found in persons.items():
        for person in found:
            for index, point in enumerate(person["keypoints"]):
                point["label"] = f"keypoint_{index}"
        evaluator.update(image_id, found)
    assert evaluator.compute() == expected.compute()
    with pytest.raises(ValueError, match="must have 17 keypoints"):
        evaluator.update(0, [{"score": 0.5, "keypoints": found[0]["keypoints"][:14]}])


def test_boxes_for_top_down_models():
    """As HRNet and RLE read them: one row and column less, clipped; nobody without keypoints, no crowds."""
    boxes = [[10, 20, 31, 41], [600, 450, 100, 100], [-5, -5, 11, 21], [5, 5, 1, 50], [639, 5, 50, 50]]
    boxes += [[50, 50, 20, 20]] * 3
    annotations = [
        {"id": index, "image_id": 0, "category_id": 1, "bbox": box, "area": 100, "keypoints": [5, 5, 2] * 17}
        for index, box in enumerate(boxes)
    ]
    annotations[5]["iscrowd"] = 1
    annotations[6]["keypoints"] = [0, 0, 0] * 17
    annotations[7]["area"] = 0
    images = [{"id": 0, "width": 640, "height": 480}, {"id": 1}]
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1}]}
    evaluator = KeypointEvaluator(truth)
    assert evaluator.person_boxes(0) == [(10, 20, 30, 40), (600, 450, 39, 29), (0, 0, 5, 15)]
    assert evaluator.person_boxes(1) == []
    del images[0]["width"]
    assert KeypointEvaluator(truth).person_boxes(0)[1] == (600, 450, 99, 99)


def test_detections(tmp_path):
    truth, _ = random_case(0, 17)
    evaluator = KeypointEvaluator(truth)
    found = [{"image_id": 3, "bbox": [1, 2, 30, 40], "score": 0.7, "category_id": 1}]
    found += [{**found[0], "category_id": 2}, {**found[0], "image_id": 999}, {**found[0], "image_id": 5}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    boxes = read_detections(tmp_path / "found.json", evaluator)
    assert boxes == read_detections(found, evaluator) and set(boxes) == set(evaluator.images)
    expected = [{"box": {"xmin": 1, "ymin": 2, "xmax": 31, "ymax": 42}, "score": 0.7}]
    assert {image_id: own for image_id, own in boxes.items() if own} == {3: expected, 5: expected}
    for other in ([{"image_id": 3}], ["a"], [3]):
        with pytest.raises(ValueError, match="`detections` must be a list of dicts"):
            read_detections(other, evaluator)
    with pytest.raises(ValueError, match="must have boxes of the annotated images"):
        read_detections(found[1:3], evaluator)


def test_crowdpose_without_crowd_index():
    truth, results = random_case(0, 14)
    for image in truth["images"]:
        del image["crowdIndex"]
    evaluator = KeypointEvaluator(truth, style="crowdpose")
    evaluator.add_results(results)
    assert list(evaluator.compute()) == ["AP", "AP50", "AP75", "AR", "AR50", "AR75"]


def test_matching_prefers_what_counts():
    similarity = np.array([[0.6, 0.9, 0.9], [0.7, 0.9, 0.9], [0.5, 0.9, 0.9], [0.1, 0.9, 0.9]])
    ignored, crowd = np.array([[False, True, True]]), np.array([False, False, True])
    found, found_ignored = match_greedily(similarity, ignored, crowd, np.array([0.5, 0.8]))
    assert found.tolist() == [[[True] * 4, [True] * 4]]  # the crowd region can be taken again and again
    assert found_ignored.tolist() == [[[False, True, True, True], [True] * 4]]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"style": "mpii"}, "`style` must be one of"),
        ({}, {"sigmas": [0.1] * 3}, "`sigmas` must have one value"),
        ({}, {"style": "crowdpose"}, "`sigmas` must have one value"),
        ({"categories": [{"id": 1}, {"id": 2}]}, {}, "`category_id` must be given"),
        ({"images": []}, {}, "must have images"),
        ({"images": [{"id": 0}]}, {}, "not in `images`"),
    ],
    ids=["style", "sigmas", "keypoints", "categories", "no-images", "other-images"],
)
def test_refuses_annotations(change, arguments, message):
    truth, _ = random_case(0, 17)
    with pytest.raises(ValueError, match=message):
        KeypointEvaluator({**truth, **change}, **arguments)


def test_refuses_other_files_and_missing_areas(tmp_path):
    (tmp_path / "no.json").write_text("{}")
    with pytest.raises(ValueError, match="must be COCO annotations"):
        KeypointEvaluator(tmp_path / "no.json")
    truth, _ = random_case(0, 17)
    del truth["annotations"][0]["area"]
    with pytest.raises(ValueError, match="have no `area`"):
        KeypointEvaluator(truth)


def test_refuses_predictions():
    truth, results = random_case(0, 17)
    evaluator = KeypointEvaluator(truth)
    with pytest.raises(ValueError, match="must be an image of the annotations"):
        evaluator.update(999, [])
    with pytest.raises(ValueError, match="must be an image of the annotations"):
        evaluator.add_results([{**results[0], "image_id": 999}])
    with pytest.raises(ValueError, match="must have 17 keypoints"):
        evaluator.update(0, {"scores": [0.5], "keypoints": np.zeros((1, 14, 2))})
    with pytest.raises(ValueError, match="must be finite"):
        evaluator.update(0, {"scores": [0.5], "keypoints": np.full((1, 17, 2), np.nan)})
    evaluator.update(0, {"scores": [0.5], "keypoints": np.zeros((1, 17, 2))})
    with pytest.raises(ValueError, match="without boxes"):
        evaluator.compute_boxes()


def test_oks_is_the_definition():
    random = np.random.default_rng(0)
    poses, references = random.uniform(0, 100, (3, 5, 2)), random.uniform(0, 100, (2, 5, 2))
    areas, sigmas, labelled = np.array([900.0, 400.0]), np.linspace(0.05, 0.1, 5), np.array([[1, 2, 0, 1, 0]] * 2)
    oks = object_keypoint_similarity(poses, references, areas, sigmas, labelled)
    for i, pose in enumerate(poses):
        for j, reference in enumerate(references):
            distance = np.square(pose - reference).sum(-1)
            terms = np.exp(-distance / (2 * areas[j] * (2 * sigmas) ** 2))
            assert oks[i, j] == pytest.approx(terms[labelled[j] > 0].mean(), rel=1e-9)


def test_nms_drops_the_weaker_of_similar_persons():
    random = np.random.default_rng(0)
    first, second = random.uniform(0, 100, (2, 17, 2))
    keypoints = np.stack([second, first + 0.5, first, second + 0.5, first + 1])
    scores, areas = np.array([0.3, 0.8, 0.9, 0.7, 0.2]), np.full(5, 5000.0)
    assert oks_nms(keypoints, scores, areas, COCO17.sigmas, 0.9).tolist() == [2, 3]
    assert oks_nms(keypoints, scores, areas, COCO17.sigmas, 1.0).tolist() == [2, 1, 3, 0, 4]
    assert oks_nms(keypoints[:0], scores[:0], areas[:0], COCO17.sigmas, 0.9).tolist() == []
    with pytest.raises(ValueError, match="`threshold` must be a similarity"):
        oks_nms(keypoints, scores, areas, COCO17.sigmas, 90)


def rle_case(fixtures):
    folder = fixtures / "rle" / "coco_eval"
    return folder / "gt.json", *(
        json.loads((folder / f"{name}.json").read_text()) for name in ("detections", "expected")
    )


RLE_STATS = {
    "AP": "AP", "Ap .5": "AP50", "AP .75": "AP75", "AP (M)": "AP_medium", "AP (L)": "AP_large",
    "AR": "AR", "AR .5": "AR50", "AR .75": "AR75", "AR (M)": "AR_medium", "AR (L)": "AR_large",
}  # fmt: skip


@pytest.mark.parametrize("with_detector", [True, False], ids=["detector", "true-boxes"])
def test_top_down_evaluation_equals_that_of_rle(fixtures, with_detector):
    """`expected.json` was recorded from RLE's code: scores, areas, suppression, average precision."""
    ground_truth, detections, expected = rle_case(fixtures)
    keypoints = np.array([person["kp"] for person in detections])
    scores = np.array([person["kp_score"] for person in detections])
    scores = scores.mean(axis=1) + scores.max(axis=1)
    kept = np.arange(len(detections))
    if with_detector:
        scores += [person["det_score"] for person in detections]
        np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=1e-6)
        areas = np.prod(
            [np.subtract(person["crop_bbox"][2:], person["crop_bbox"][:2]) for person in detections], axis=1
        )
        np.testing.assert_allclose(areas, expected["areas"], rtol=1e-3)
        areas = np.array(expected["areas"])  # the file has the boxes to two digits only
        images = np.array([person["image_id"] for person in detections])
        first = images == images[0]
        oks = object_keypoint_similarity(
            keypoints[first], keypoints[first], (areas[first][:, None] + areas[first]) / 2, COCO17.sigmas
        )
        np.testing.assert_allclose(oks, expected["oks_matrix_first_image"], rtol=0, atol=1e-9)
        kept = [
            np.flatnonzero(images == image)[oks_nms(*(x[images == image] for x in (keypoints, scores, areas)), COCO17.sigmas, 0.9)]
            for image in dict.fromkeys(images)
        ]  # fmt: skip
        kept = np.concatenate(kept)
        assert kept.tolist() == expected["nms_keep_indices_in_output_order"]
    evaluator = KeypointEvaluator(ground_truth)
    evaluator.add_results(
        {
            "image_id": detections[index]["image_id"],
            "category_id": 1,
            "score": scores[index],
            "keypoints": np.column_stack([keypoints[index], np.ones(17)]).ravel().tolist(),
        }
        for index in kept
    )
    reference = expected["stats_det_box_after_nms" if with_detector else "stats_gt_box_no_nms"]
    assert evaluator.compute() == pytest.approx(
        {RLE_STATS[name]: value for name, value in reference.items()}, abs=1e-9
    )


def test_pck_is_the_definition():
    targets = np.zeros((2, 3, 2))
    keypoints = targets.copy()
    keypoints[0, 0] = 3, 4  # 5 pixels of 50 are just right
    keypoints[0, 1] = 5.1, 0
    keypoints[1, 1] = 0, 9
    labelled = np.array([[1, 2, 0], [1, 1, 0]])
    targets[0, 2] = np.nan  # not labelled
    scales = [50, 100]
    assert percentage_of_correct_keypoints(keypoints, targets, labelled, scales) == 0.75
    assert percentage_of_correct_keypoints(keypoints, torch.tensor(targets), labelled, scales, threshold=0.05) == 0.25
    shares = percentage_of_correct_keypoints(keypoints, targets, labelled, scales, per_keypoint=True)
    np.testing.assert_array_equal(shares, [1, 0.5, np.nan])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.zeros((2, 3, 3))}, "must both have shape"),
        ({"labelled": np.ones((2, 4))}, r"`labelled` must have shape \(2, 3\)"),
        ({"labelled": np.zeros((2, 3))}, "all are unlabelled"),
        ({"scales": np.array([1.0, 0.0])}, "`scales` must be positive"),
        ({"scales": np.array([1.0, np.nan])}, "`scales` must be positive"),
        ({"keypoints": np.full((2, 3, 2), np.nan)}, "finite where labelled"),
        ({"threshold": 0}, "`threshold` must be"),
    ],
)
def test_pck_refuses(change, message):
    arguments = {
        "keypoints": np.zeros((2, 3, 2)),
        "targets": np.zeros((2, 3, 2)),
        "labelled": np.ones((2, 3)),
        "scales": np.ones(2),
    }
    with pytest.raises(ValueError, match=message):
        percentage_of_correct_keypoints(**{**arguments, **change})


@pytest.mark.parametrize(
    ("case", "label", "size"),
    [
        ("coco2d_bottleneck_tiny", "target_uv", (128, 96)),
        reference_case("rle", "h36m3d_bottleneck_tiny", "target_uvd", (128, 128)),
    ],
    ids=["2d", "3d"],
)
def test_training_accuracy_equals_that_of_rle(case, label, size):
    values = load_file(reference_folder("rle", case) / "io.safetensors")
    keypoints = values["output.train.pred_jts"]
    labels, weights = (values[f"input.train.{label}{suffix}"].reshape(keypoints.shape) for suffix in ("", "_weight"))
    expected = values["output.train.acc"][0].item()
    assert regression_accuracy(keypoints, labels, weights, size) == pytest.approx(expected, abs=1e-12)
    unlabelled = torch.where(weights > 0, labels, torch.nan)
    assert regression_accuracy(keypoints, unlabelled, weights, size) == pytest.approx(expected, abs=1e-12)
    assert regression_accuracy(keypoints, labels, weights * 0, size) == 0


def test_training_accuracy_leaves_out_the_border():
    labels = np.array([[[0.0, 0.0]], [[-0.5, 0.0]]])
    near, far = labels + np.array([0.03, 0.039]), labels + np.array([0.03, 0.041])
    assert regression_accuracy(near, labels, np.ones((2, 1)), (64, 64)) == 1
    assert regression_accuracy(far, labels, np.ones((2, 1)), (64, 64)) == 0
    with pytest.raises(ValueError, match="`label_weights` must have shape"):
        regression_accuracy(near, labels, np.ones((2, 2)), (64, 64))
    with pytest.raises(ValueError, match="must both have shape"):
        regression_accuracy(near, labels[..., :1], np.ones((2, 1)), (64, 64))
