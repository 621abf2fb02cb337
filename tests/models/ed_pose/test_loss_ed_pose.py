"""Losses, matching and denoising queries of ED-Pose: stored values of the original, and a naive second writing."""

import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from hvmodels.models.ed_pose import denoising_ed_pose, loss_ed_pose
from hvmodels.models.ed_pose.configuration_ed_pose import EDPoseConfig
from hvmodels.models.ed_pose.denoising_ed_pose import (
    denoising_attention_mask,
    denoising_chunk_ids,
    draw_denoising_noise,
    make_denoising_queries,
)
from hvmodels.models.ed_pose.loss_ed_pose import compute_loss, linear_sum_assignment, match, mean_matching_costs


# Keypoints of the hand-made cases, an unpublished number with sigmas of their own.
NUM_KEYPOINTS = 5
SIGMAS = (0.05, 0.2, 0.4, 0.6, 0.8)
RECORDED_SEED = 1234


@pytest.fixture
def published_config():
    return EDPoseConfig()


@pytest.fixture
def config():
    return EDPoseConfig(num_keypoints=NUM_KEYPOINTS, keypoint_sigmas=SIGMAS, num_denoising=7)


@pytest.fixture(scope="module")
def reference(fixtures):
    return load_file(fixtures / "edpose" / "r50_coco17_train" / "io.safetensors")


def original_keypoints(values):
    """The original's `x1 y1 ... xK yK v1 ... vK` as (..., K, 2) and (..., K)."""
    count = values.shape[-1] // 3
    return values[..., : 2 * count].unflatten(-1, (count, 2)), values[..., 2 * count :]


def original_labels(reference):
    labels = []
    for image in range(2):
        keypoints, visible = original_keypoints(reference[f"target.{image}.keypoints"])
        label = {"keypoints": keypoints, "keypoints_visible": visible}
        label["class_labels"] = reference[f"target.{image}.labels"]
        label |= {name: reference[f"target.{image}.{name}"] for name in ("boxes", "area")}
        labels.append(label)
    return labels


def original_outputs(reference, tag):
    def layer(prefix, with_keypoints):
        fields = {name: reference[f"output.{tag}.{prefix}{name}"] for name in ("pred_logits", "pred_boxes")}
        keypoints, _ = original_keypoints(reference[f"output.{tag}.{prefix}pred_keypoints"])
        fields["pred_keypoints"] = keypoints if with_keypoints else None
        return {"logits": fields.pop("pred_logits"), **fields}

    outputs = layer("", True)
    outputs["auxiliary_outputs"] = [layer(f"aux_outputs.{index}.", False) for index in range(2)]
    outputs["enc_outputs_class"] = reference[f"output.{tag}.interm_outputs.pred_logits"]
    outputs["enc_outputs_coord"] = reference[f"output.{tag}.interm_outputs.pred_boxes"]
    if tag == "dn":
        outputs["denoising_outputs"] = [
            {"logits": reference["output.dn.dn_class_pred"], "pred_boxes": reference["output.dn.dn_bbox_pred"]}
        ]
        outputs["denoising_targets"] = {
            "class_labels": reference["output.dn.dn_class_input"],
            "boxes": reference["output.dn.dn_bbox_input"],
        }
    return outputs


@pytest.fixture(params=["dn", "nodn"])
def tag(request):
    return request.param


@pytest.fixture(params=["scipy", "own"])
def solver(request, monkeypatch):
    """Both solvers of the assignment, whichever is installed."""
    if request.param == "scipy":
        pytest.importorskip("scipy")
    else:
        monkeypatch.setattr(loss_ed_pose, "scipy_linear_sum_assignment", None)


# Parity with the original


def test_losses_of_the_original(reference, tag, published_config, solver):
    outputs, labels = original_outputs(reference, tag), original_labels(reference)
    loss, loss_dict = compute_loss(outputs, labels, published_config)
    entries = {**loss_dict, **mean_matching_costs(outputs, labels, published_config)}
    for name, value in entries.items():
        assert_close(value, reference[f"output.{tag}.loss.{name}"], rtol=1e-6, atol=1e-6)

    # The predictions of denoising queries are stored for the last layer only, their losses for all.
    prefix = f"output.{tag}.loss."
    missing = {name[len(prefix) :] for name in reference if name.startswith(prefix)} - set(entries)
    expected = {f"dn_{name}_{index}" for name in ("loss_ce", "loss_bbox", "loss_giou") for index in range(2)}
    if tag == "nodn":
        expected |= {"dn_loss_ce", "dn_loss_bbox", "dn_loss_giou"}
    assert missing == expected
    weights = {"dn_loss_ce": 0.3, "dn_loss_bbox": 2.5, "dn_loss_giou": 1.0}
    for name in missing:
        loss = loss + weights[name.removesuffix("_0").removesuffix("_1")] * reference[prefix + name]
    assert_close(loss, reference[f"output.{tag}.total_loss"], rtol=1e-6, atol=0)


def test_matches_of_the_original(reference, tag, published_config, solver):
    outputs, labels = original_outputs(reference, tag), original_labels(reference)
    layers = {"final": outputs}
    layers |= {f"aux_outputs.{index}": layer for index, layer in enumerate(outputs["auxiliary_outputs"])}
    layers["interm_outputs"] = {
        "logits": outputs["enc_outputs_class"],
        "pred_boxes": outputs["enc_outputs_coord"],
    }
    for name, layer in layers.items():
        for image, indices in enumerate(match(layer, labels, published_config)):
            assert torch.equal(torch.stack(indices), reference[f"output.{tag}.match.{name}.{image}"])


def test_denoising_queries_of_the_original(reference, published_config):
    """One seed gives the original's queries, drawn from a generator or from the global one."""
    embedding = nn.Embedding(101, 8)
    for generator in (torch.Generator().manual_seed(RECORDED_SEED), None):
        torch.manual_seed(RECORDED_SEED)
        queries = make_denoising_queries(original_labels(reference), published_config, embedding, generator)
        assert torch.equal(queries.content, embedding(reference["input.dn.noised_labels"]))
        assert_close(queries.reference_logits, reference["input.dn.query_boxes_unsigmoid"])
        assert torch.equal(queries.target_labels, reference["input.dn.target_labels"])
        assert torch.equal(queries.target_boxes, reference["input.dn.target_boxes"])
        for name in ("attn_mask", "attn_mask2"):
            blocked = reference[f"intermediate.dn.{name}"][:, :100]
            allowed = denoising_attention_mask(queries.chunk_ids, blocked.shape[-1] - 100)
            assert torch.equal(~allowed[:, 0], blocked)


# The definition once more, person by person


def random_labels(counts, num_keypoints=NUM_KEYPOINTS, dtype=torch.float64):
    labels = []
    for count in counts:
        boxes = torch.cat([torch.rand(count, 2) * 0.6 + 0.2, torch.rand(count, 2) * 0.3 + 0.05], dim=-1).to(dtype)
        labels.append(
            {
                "class_labels": torch.ones(count, dtype=torch.int64),
                "boxes": boxes,
                "keypoints": torch.rand(count, num_keypoints, 2, dtype=dtype),
                "keypoints_visible": (torch.rand(count, num_keypoints) < 0.7).to(dtype),
                "area": 0.5 * boxes[:, 2] * boxes[:, 3],
            }
        )
    return labels


def random_outputs(batch_size, config, num_queries=6, num_groups=4, dtype=torch.float64):
    """Leaves that require gradients, as a model with two layers of boxes and three with keypoints gives them."""

    def leaf(*shape, spread=1.0):
        values = torch.rand(*shape, dtype=torch.float64) if spread is None else spread * torch.randn(*shape)
        return values.to(dtype).requires_grad_()

    def layer(rows, with_keypoints):
        fields = {
            "logits": leaf(batch_size, rows, 2, spread=2.0),
            "pred_boxes": leaf(batch_size, rows, 4, spread=None),
        }
        shape = (batch_size, rows, config.num_keypoints, 2)
        return {**fields, "pred_keypoints": leaf(*shape, spread=None) if with_keypoints else None}

    outputs = layer(num_groups, True)
    outputs["auxiliary_outputs"] = [layer(num_queries, False) for _ in range(2)]
    outputs["auxiliary_outputs"] += [layer(num_groups, True) for _ in range(2)]
    outputs["enc_outputs_class"] = leaf(batch_size, num_queries, 2, spread=2.0)
    outputs["enc_outputs_coord"] = leaf(batch_size, num_queries, 4, spread=None)
    if config.num_denoising:
        count = config.num_denoising
        outputs["denoising_outputs"] = [layer(count, False) for _ in range(5)]
        outputs["denoising_targets"] = {
            "class_labels": torch.randint(1, 3, (batch_size, count)),
            "boxes": torch.rand(batch_size, count, 4, dtype=dtype),
        }
    return outputs


def leaves(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.requires_grad else []
    values = outputs.values() if isinstance(outputs, dict) else outputs or ()
    return [tensor for value in values for tensor in leaves(value)]


def naive_giou(box, other):
    (x, y, w, h), (u, v, s, t) = box, other
    left, right = max(x - w / 2, u - s / 2), min(x + w / 2, u + s / 2)
    top, bottom = max(y - h / 2, v - t / 2), min(y + h / 2, v + t / 2)
    inside = max(right - left, 0 * x) * max(bottom - top, 0 * x)
    union = w * h + s * t - inside
    hull = (max(x + w / 2, u + s / 2) - min(x - w / 2, u - s / 2)) * (
        max(y + h / 2, v + t / 2) - min(y - h / 2, v - t / 2)
    )
    return inside / (union + 1e-6) - (hull - union) / (hull + 1e-6)


def naive_oks(pose, label, person, sigmas):
    similar, seen = 0.0, 0.0
    for keypoint, sigma in enumerate(sigmas):
        if label["keypoints_visible"][person, keypoint]:
            distance = (pose[keypoint] - label["keypoints"][person, keypoint]).pow(2).sum()
            similar = similar + torch.exp(-distance / (2 * label["area"][person] * (2 * sigma) ** 2))
            seen += 1
    return max(similar / (seen + 1e-6), torch.tensor(1e-6, dtype=pose.dtype))


def naive_focal(logit, positive):
    probability = 1 / (1 + torch.exp(-logit))
    if positive:
        return -0.25 * (1 - probability) ** 2 * torch.log(probability)
    return -0.75 * probability**2 * torch.log(1 - probability)


def naive_match(layer, image, label, config):
    """The best of all assignments, tried one by one."""
    queries, persons = layer["logits"].shape[1], len(label["boxes"])
    cost = torch.zeros(queries, persons, dtype=torch.float64)
    for query, person in itertools.product(range(queries), range(persons)):
        probability = layer["logits"][image, query, 1].sigmoid()
        cost[query, person] = 2 * (
            -0.25 * (1 - probability) ** 2 * (probability + 1e-8).log()
            + 0.75 * probability**2 * (1 - probability + 1e-8).log()
        )
        if layer.get("pred_keypoints") is None:
            box, target = layer["pred_boxes"][image, query], label["boxes"][person]
            cost[query, person] += 5 * (box - target).abs().sum() - 2 * naive_giou(box, target)
        else:
            pose, visible = layer["pred_keypoints"][image, query], label["keypoints_visible"][person]
            cost[query, person] += 10 * ((pose - label["keypoints"][person]).abs().sum(-1) * visible).sum()
            cost[query, person] += 4 * (1 - naive_oks(pose, label, person, config.keypoint_sigmas))
    options = itertools.permutations(range(queries), persons)
    best = min(options, key=lambda option: sum(cost[query, person].item() for person, query in enumerate(option)))
    return {query: person for person, query in enumerate(best)}


def naive_loss(outputs, labels, config):
    persons = max(1, sum(len(label["boxes"]) for label in labels))
    encoder = {"logits": outputs["enc_outputs_class"], "pred_boxes": outputs["enc_outputs_coord"]}
    layers = {"": outputs, "_interm": encoder}
    layers |= {f"_{index}": layer for index, layer in enumerate(outputs["auxiliary_outputs"])}
    weights = {"loss_ce": 2, "loss_bbox": 5, "loss_giou": 2, "loss_keypoints": 10, "loss_oks": 4}
    losses, total = {}, 0.0
    for suffix, layer in layers.items():
        has_keypoints = layer.get("pred_keypoints") is not None
        sums = dict.fromkeys(list(weights) if has_keypoints else list(weights)[:3], 0.0)
        for image, label in enumerate(labels):
            matched = naive_match(layer, image, label, config)
            for query in range(layer["logits"].shape[1]):
                for kind in range(2):
                    positive = kind == 1 and query in matched
                    sums["loss_ce"] += naive_focal(layer["logits"][image, query, kind], positive)
            for query, person in matched.items():
                box, target = layer["pred_boxes"][image, query], label["boxes"][person]
                sums["loss_bbox"] += (box - target).abs().sum()
                sums["loss_giou"] += 1 - naive_giou(box, target)
                if has_keypoints:
                    pose, visible = layer["pred_keypoints"][image, query], label["keypoints_visible"][person]
                    sums["loss_keypoints"] += ((pose - label["keypoints"][person]).abs().sum(-1) * visible).sum()
                    sums["loss_oks"] += 1 - naive_oks(pose, label, person, config.keypoint_sigmas)
        for name, value in sums.items():
            losses[name + suffix] = value / persons
            total = total + weights[name] * value / persons
    for index, layer in enumerate(outputs["denoising_outputs"]):
        suffix = "" if index == 4 else f"_{index}"
        targets, count = outputs["denoising_targets"], config.num_denoising
        places = list(itertools.product(range(len(labels)), range(count)))
        ce = sum(
            naive_focal(layer["logits"][place][kind], targets["class_labels"][place] == kind)
            for place in places
            for kind in range(2)
        )
        l1 = (layer["pred_boxes"] - targets["boxes"]).abs().sum()
        giou = sum(1 - naive_giou(layer["pred_boxes"][place], targets["boxes"][place]) for place in places)
        losses |= {f"dn_loss_ce{suffix}": ce / count, f"dn_loss_bbox{suffix}": l1 / count}
        losses[f"dn_loss_giou{suffix}"] = giou / count
        total = total + (0.3 * ce + 2.5 * l1 + 1.0 * giou) / count
    return total, losses


@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (4, 1), (0, 0)], ids=str)
def test_losses_and_gradients_against_the_definition(config, counts):
    outputs, labels = random_outputs(2, config), random_labels(counts)
    loss, loss_dict = compute_loss(outputs, labels, config)
    expected_loss, expected_dict = naive_loss(outputs, labels, config)
    assert loss_dict.keys() - expected_dict.keys() == {"class_error"}
    for name, value in expected_dict.items():
        assert_close(loss_dict[name], torch.as_tensor(value, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert_close(loss, expected_loss, rtol=1e-9, atol=1e-9)

    inputs = leaves(outputs)
    gradients = torch.autograd.grad(loss, inputs)  # raises if an output does not take part
    expected = torch.autograd.grad(expected_loss, inputs, allow_unused=True)
    for gradient, other in zip(gradients, expected, strict=True):
        assert_close(gradient, torch.zeros_like(gradient) if other is None else other, rtol=1e-7, atol=1e-9)


def test_class_error(config):
    outputs, labels = random_outputs(1, config), random_labels([4])
    with torch.no_grad():
        outputs["logits"][0, :, 1] = outputs["logits"][0, :, 0] + torch.tensor([1.0, 1.0, 1.0, -1.0])
    assert compute_loss(outputs, labels, config)[1]["class_error"].item() == 25.0
    assert compute_loss(outputs, random_labels([0]), config)[1]["class_error"].item() == 100.0


def test_only_the_last_layer(config):
    """Without auxiliary, encoder and denoising outputs, absent or None."""
    outputs, labels = random_outputs(2, config), random_labels([1, 2])
    last = {name: outputs[name] for name in ("logits", "pred_boxes", "pred_keypoints")}
    loss, loss_dict = compute_loss(last, labels, config)
    assert set(loss_dict) == {"loss_ce", "loss_bbox", "loss_giou", "loss_keypoints", "loss_oks", "class_error"}
    nothing = dict.fromkeys(["auxiliary_outputs", "enc_outputs_class", "enc_outputs_coord", "denoising_outputs"])
    assert_close(compute_loss({**last, **nothing}, labels, config)[0], loss)


def test_coefficients_are_read(config):
    outputs, labels = random_outputs(2, config), random_labels([1, 2])
    names = [name for name in config.to_dict() if name.endswith("_loss_coefficient")]
    assert len(names) == 8
    total = 0.0
    for name in names:
        for other in names:
            setattr(config, other, 1 if other == name else 0)
        loss, loss_dict = compute_loss(outputs, labels, config)
        kind = name.removesuffix("_loss_coefficient").replace("class", "ce").replace("keypoint", "keypoints")
        kind = f"dn_loss_{kind[3:]}" if kind.startswith("dn_") else f"loss_{kind}"
        values = [value for key, value in loss_dict.items() if key.startswith(kind)]
        assert_close(loss, sum(values))
        total = total + loss
    for name in names:
        setattr(config, name, 1)
    assert_close(compute_loss(outputs, labels, config)[0], total)


# Matching


def test_more_persons_than_queries(config):
    """The best matches are kept, the remaining persons have no loss."""
    outputs, labels = random_outputs(1, config, num_queries=6, num_groups=4), random_labels([9])
    query_index, target_index = match(outputs, labels, config)[0]
    assert query_index.tolist() == [0, 1, 2, 3]
    assert len(set(target_index.tolist())) == 4
    loss, _ = compute_loss(outputs, labels, config)
    assert loss.isfinite()


def test_keypoints_and_not_boxes_decide_in_layers_with_keypoints(config):
    outputs, labels = random_outputs(1, config), random_labels([3])
    other = {**outputs, "pred_boxes": torch.rand_like(outputs["pred_boxes"])}
    for indices, others in zip(match(outputs, labels, config), match(other, labels, config), strict=True):
        assert torch.equal(torch.stack(indices), torch.stack(others))


def test_images_are_independent(config):
    outputs, labels = random_outputs(3, config), random_labels([2, 0, 3])
    together = match(outputs, labels, config)
    for image in range(3):
        alone = {name: outputs[name][image : image + 1] for name in ("logits", "pred_boxes", "pred_keypoints")}
        (indices,) = match(alone, labels[image : image + 1], config)
        assert torch.equal(torch.stack(indices), torch.stack(together[image]))
    assert together[1][0].dtype == together[1][1].dtype == torch.int64


def test_one_transfer_for_all_costs(config, monkeypatch):
    transfers = []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: transfers.append(self.shape) or cpu(self))
    compute_loss(random_outputs(2, config), random_labels([2, 3]), config)
    assert transfers == [(5, 3 * 6 + 3 * 4 + len(loss_ed_pose.LABEL_CHECKS))]


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 3), (4, 9), (9, 4), (0, 5), (5, 0)], ids=str)
@pytest.mark.parametrize("kind", ["random", "negative", "ties"])
def test_linear_sum_assignment(shape, kind):
    generator = np.random.default_rng(0)
    for _ in range(5):
        cost = generator.random(shape)
        if kind == "negative":
            cost = cost - 5
        if kind == "ties":
            cost = np.round(cost * 2)
        rows, columns = linear_sum_assignment(cost)
        assert rows.dtype == columns.dtype == np.int64
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert len(set(columns.tolist())) == len(columns) == min(shape)
        wide = cost if shape[0] <= shape[1] else cost.T
        if max(shape) <= 7:
            options = itertools.permutations(range(wide.shape[1]), wide.shape[0])
            best = min(sum(wide[row, column] for row, column in enumerate(option)) for option in options)
            assert math.isclose(cost[rows, columns].sum(), best, abs_tol=1e-12)


def test_linear_sum_assignment_against_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    generator = np.random.default_rng(0)
    for shape in [(20, 900), (100, 100), (100, 30), (40, 41)]:
        for cost in (generator.random(shape), generator.normal(size=shape).astype(np.float32) * 1e3):
            for own, other in zip(linear_sum_assignment(cost), optimize.linear_sum_assignment(cost), strict=True):
                assert np.array_equal(own, other)
        ties = generator.integers(0, 4, shape)
        total = ties[linear_sum_assignment(ties)].sum()
        assert total == ties[optimize.linear_sum_assignment(ties)].sum()


# Numbers and batches out of the ordinary


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(config, dtype):
    half = random_outputs(2, config, dtype=dtype)
    labels = random_labels([2, 3], dtype=torch.float32)

    def raised(value):
        if isinstance(value, torch.Tensor):
            return value.detach().float() if value.is_floating_point() else value
        if isinstance(value, dict):
            return {name: raised(part) for name, part in value.items()}
        return [raised(part) for part in value] if isinstance(value, list) else value

    loss, loss_dict = compute_loss(half, labels, config)
    expected_loss, expected_dict = compute_loss(raised(half), labels, config)
    assert loss.dtype == torch.float32
    assert_close(loss.detach(), expected_loss, rtol=0, atol=0)
    assert {name: value.item() for name, value in loss_dict.items()} == {
        name: value.item() for name, value in expected_dict.items()
    }
    loss.backward()
    for leaf in leaves(half):
        assert leaf.grad.dtype == dtype
        assert leaf.grad.isfinite().all()


def test_extreme_predictions_in_float16(config):
    """Saturated logits, boxes of no size and poses far off give finite losses and gradients."""
    outputs, labels = random_outputs(2, config, dtype=torch.float16), random_labels([2, 3], dtype=torch.float32)
    with torch.no_grad():
        for leaf in leaves(outputs):
            leaf.copy_(torch.where(leaf > 0.5, 6e4, -6e4) if leaf.shape[-1] == 2 and leaf.dim() == 3 else 0)
    labels[0]["boxes"][0, 2:] = 1e-5
    labels[0]["area"][0] = 1e-10
    labels[0]["keypoints_visible"][0] = 0
    loss, loss_dict = compute_loss(outputs, labels, config)
    loss.backward()
    assert all(value.isfinite() for value in loss_dict.values())
    assert all(leaf.grad.isfinite().all() for leaf in leaves(outputs))


def test_gradients_reach_every_output_without_persons(config):
    """Distributed training needs a gradient for every parameter in every step."""
    outputs = random_outputs(2, config)
    compute_loss(outputs, random_labels([0, 0]), config)[0].backward()
    for leaf in leaves(outputs):
        assert leaf.grad is not None
    assert outputs["pred_keypoints"].grad.abs().max() == 0
    assert outputs["logits"].grad.abs().min() > 0


def test_number_of_persons_is_averaged_over_processes(config, monkeypatch):
    outputs, labels = random_outputs(2, config), random_labels([2, 3])
    _, alone = compute_loss(outputs, labels, config)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(35))
    _, shared = compute_loss(outputs, labels, config)  # 40 persons in 4 processes
    assert_close(shared["loss_bbox"], alone["loss_bbox"] * 5 / 10)
    assert_close(shared["dn_loss_bbox"], alone["dn_loss_bbox"])
    _, given = compute_loss(outputs, labels, config, num_persons=10)
    assert_close(given["loss_oks_3"], shared["loss_oks_3"])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total)
    labels = random_labels([0, 1])  # a quarter of a person a process counts as one
    _, few = compute_loss(outputs, labels, config)
    assert_close(few["loss_ce"], compute_loss(outputs, labels, config, num_persons=1)[1]["loss_ce"])


# Errors


def broken(**changes):
    labels = random_labels([1, 2])
    labels[1] = {**labels[1], **changes}
    return labels


def changed(name, index, value):
    labels = random_labels([1, 2])
    labels[1][name][index] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda: changed("boxes", (1, 2), 0.0), r"`labels\[1\]`: person 1 has a box that is empty"),
        (lambda: changed("boxes", (0, 3), -0.1), r"`labels\[1\]`: person 0 has a box that is empty"),
        (lambda: changed("boxes", (0, 0), math.nan), "not finite"),
        (lambda: changed("area", 1, 0.0), "person 1 has an `area` that is not positive"),
        (lambda: changed("class_labels", 0, 2), "label out of range"),
        (lambda: changed("class_labels", 0, -1), "label out of range"),
        (lambda: changed("keypoints_visible", (0, 0), 2.0), "visibility other than 0 and 1"),
        (lambda: changed("keypoints", (0, 0, 0), math.inf), "a keypoint that is not finite"),
        (lambda: broken(boxes=torch.rand(3, 4)), r"`boxes` of shape \(n, 4\) with n = 2"),
        (lambda: broken(keypoints=torch.rand(2, 3 * NUM_KEYPOINTS)), r"`keypoints` of shape \(n, 5, 2\)"),
        (lambda: broken(area=torch.rand(2, 1)), r"`area` of shape \(n,\)"),
        (lambda: [{"class_labels": torch.ones(1)}, {}], r"`labels\[0\]` lacks \['boxes', 'keypoints'"),
        (lambda: random_labels([1]), "one dict for each of the 2 images, got 1"),
    ],
)
def test_impossible_labels_are_refused(config, labels, message):
    with pytest.raises(ValueError, match=message):
        compute_loss(random_outputs(2, config), labels(), config)


def test_unknown_sigmas_are_refused():
    config = EDPoseConfig(num_keypoints=NUM_KEYPOINTS, num_denoising=0)
    assert config.keypoint_sigmas is None
    with pytest.raises(
        ValueError, match="`keypoint_sigmas`, one positive number for each of the 5 keypoints, got none"
    ):
        compute_loss(random_outputs(1, config), random_labels([1]), config)


def test_diverged_predictions_are_refused(config):
    outputs = random_outputs(2, config)
    with torch.no_grad():
        outputs["auxiliary_outputs"][0]["logits"][0, 0] = math.nan
    with pytest.raises(ValueError, match="training has diverged"):
        compute_loss(outputs, random_labels([1, 2]), config)


# Denoising queries


@pytest.mark.parametrize("counts", [(2, 3), (0, 3), (0, 0), (7, 1), (12, 20)], ids=str)
def test_denoising_queries(config, counts):
    labels, embedding = random_labels(counts, dtype=torch.float32), nn.Embedding(101, 8)
    queries = make_denoising_queries(labels, config, embedding, torch.Generator().manual_seed(0))
    assert queries.content.shape == (2, 7, 8)
    assert queries.reference_logits.shape == queries.target_boxes.shape == (2, 7, 4)
    assert queries.reference_logits.abs().max() <= math.log(1000) + 1e-5
    for image, count in enumerate(counts):
        targets = queries.target_boxes[image]
        if count == 0:
            assert (queries.target_labels[image] == 2).all()  # no class
            assert ((targets >= 0) & (targets <= 1)).all()
        else:
            assert (queries.target_labels[image] == 1).all()
            assert ((targets[:, None] == labels[image]["boxes"]).all(-1).any(-1)).all()
            whole = 7 // count * count
            assert_close(targets[:whole], labels[image]["boxes"].repeat(7 // count, 1), rtol=0, atol=0)
        chunks = [i // count if count else 0 for i in range(7)]
        assert queries.chunk_ids[image].tolist() == chunks
    outputs = random_outputs(2, config, dtype=torch.float32)
    outputs["denoising_targets"] = queries.targets
    assert compute_loss(outputs, labels, config)[0].isfinite()
    queries.content.sum().backward()
    assert embedding.weight.grad.sum() == 2 * 7 * 8


def test_more_persons_than_denoising_queries_are_sampled(config):
    config.label_noise_ratio = config.box_noise_scale = 0
    noise = draw_denoising_noise([1000], config, torch.Generator().manual_seed(0))
    assert len(set(noise.person_index[0].tolist())) > 3
    assert denoising_chunk_ids([1000], 7).tolist() == [[0] * 7]


def test_denoising_noise_is_repeatable_and_optional(config):
    labels, embedding = random_labels([2, 3], dtype=torch.float32), nn.Embedding(101, 8)

    def make(**options):
        return make_denoising_queries(labels, config, embedding, **options).reference_logits

    first, second = (make(generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(first, make(generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(first, second)
    before = torch.random.get_rng_state()
    make(generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.random.get_rng_state())
    noise = draw_denoising_noise([2, 3], config, torch.Generator().manual_seed(0))
    assert torch.equal(first, make(noise=noise))

    config.label_noise_ratio = config.box_noise_scale = 0
    queries = make_denoising_queries(labels, config, embedding)
    assert torch.equal(queries.content, embedding(queries.target_labels))
    expected = denoising_ed_pose.clamped_inverse_sigmoid(queries.target_boxes, 1e-3)
    assert torch.equal(queries.reference_logits, expected)


def test_amount_of_denoising_noise(config):
    config.num_denoising, config.label_noise_ratio, config.box_noise_scale = 20_000, 0.3, 0.5
    labels, embedding = random_labels([1], dtype=torch.float32), nn.Embedding(101, 1)
    embedding.weight.data[:, 0] = torch.arange(101)
    labels[0]["boxes"][0] = torch.tensor([0.5, 0.5, 0.2, 0.4])
    queries = make_denoising_queries(labels, config, embedding, torch.Generator().manual_seed(0))
    boxes = queries.reference_logits.sigmoid()[0]
    assert_close(boxes.amin(0), torch.tensor([0.45, 0.4, 0.1, 0.2]), rtol=0, atol=1e-3)
    assert_close(boxes.amax(0), torch.tensor([0.55, 0.6, 0.3, 0.6]), rtol=0, atol=1e-3)
    noisy = queries.content[0, :, 0]
    assert (noisy != 1).float().mean().item() == pytest.approx(0.3 * 0.99, abs=0.01)
    assert noisy.max() == 99  # the last row is never drawn


def test_no_denoising_queries(config):
    config.num_denoising = 0
    queries = make_denoising_queries(random_labels([2, 0]), config, nn.Embedding(101, 8))
    assert queries.content.shape == (2, 0, 8)
    assert denoising_attention_mask(queries.chunk_ids, 4).shape == (2, 1, 0, 4)


def test_denoising_errors(config):
    embedding = nn.Embedding(101, 8)
    with pytest.raises(ValueError, match="`labels` must hold one dict an image"):
        make_denoising_queries([], config, embedding)
    with pytest.raises(ValueError, match=r"`labels\[1\]` must hold `class_labels` \(n,\) and `boxes` \(n, 4\)"):
        make_denoising_queries(broken(boxes=torch.rand(2, 5)), config, embedding)


def test_clamped_inverse_sigmoid():
    values = torch.tensor([-1.0, 0.0, 1e-4, 0.25, 1.0, 2.0])
    expected = [-math.log(1000), -math.log(1000), math.log(1e-3 / (1 - 1e-4)), math.log(1 / 3), math.log(1000)]
    assert_close(denoising_ed_pose.clamped_inverse_sigmoid(values, 1e-3), torch.tensor([*expected, math.log(1000)]))
