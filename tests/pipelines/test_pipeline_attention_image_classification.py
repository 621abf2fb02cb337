import logging

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ImageClassificationPipeline, ViTConfig, ViTForImageClassification, pipeline
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from hvmodels import AIBConfig, AIBForImageClassification, AIBImageProcessor, AttentionImageClassificationPipeline
from hvmodels.visualization.attention import draw_attention


def make_pipeline(processor=None, **fields):
    torch.manual_seed(0)
    sizes = {"hidden_sizes": [4, 4, 6, 8], "latent_dim": 5, "num_labels": 7, "num_samples_eval": 3}
    model = AIBForImageClassification(AIBConfig(**{**sizes, **fields})).eval()
    model.aib.attention.spread_head.bias.data.fill_(4.5)  # spreads that are seen
    return AttentionImageClassificationPipeline(model=model, image_processor=processor or AIBImageProcessor())


@pytest.fixture(scope="module")
def classifier():
    return make_pipeline()


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40 + 8 * index, 64, 3), dtype=np.uint8)) for index in range(3)]


def test_labels_and_scores_are_those_of_the_model(pictures):
    classifier = make_pipeline(stochastic_eval=False)
    plain = ImageClassificationPipeline(model=classifier.model, image_processor=classifier.image_processor)
    results = classifier(pictures, top_k=3)
    assert results == plain(pictures, top_k=3)
    with torch.no_grad():
        scores = classifier.model(**classifier.image_processor(pictures, return_tensors="pt")).logits.softmax(-1)
    for result, expected in zip(results, scores, strict=True):
        assert [set(entry) for entry in result] == [{"label", "score"}] * 3
        assert result[0]["label"] == f"LABEL_{expected.argmax()}"
        assert result[0]["score"] == pytest.approx(expected.max().item(), abs=1e-6)


def test_answers_are_the_same_each_time_and_in_any_batch(classifier, pictures):
    results = classifier(pictures)
    assert results == classifier(pictures) == [classifier(picture) for picture in pictures]
    for one, of_batch in zip(results, classifier(pictures, batch_size=3), strict=True):
        for entry, other in zip(one, of_batch, strict=True):
            assert entry["label"] == other["label"]
            np.testing.assert_allclose(entry["score"], other["score"], atol=1e-6)
    state = torch.get_rng_state()
    classifier(pictures[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_and_samples(classifier, pictures):
    picture = pictures[0]
    scores = [classifier(picture, seed=seed)[0]["score"] for seed in (0, 0, 1, -1, -1)]
    assert scores[0] == scores[1] and len(set(scores)) == 4
    pixel_values = classifier.image_processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        outputs = classifier.model(pixel_values, num_samples=5, generator=torch.Generator().manual_seed(3))
    result = classifier(picture, num_samples=5, seed=3, top_k=7)
    probabilities = outputs.sample_logits.softmax(-1)[0]
    for entry in result:
        label = classifier.model.config.label2id[entry["label"]]
        assert entry["score"] == pytest.approx(outputs.logits.softmax(-1)[0, label].item(), abs=1e-6)
        assert entry["score_std"] == pytest.approx(probabilities[:, label].std(correction=0).item(), abs=1e-6)
    assert result[0]["score_std"] > 0
    assert set(classifier(picture, num_samples=1)[0]) == {"label", "score"}


def test_attention_lies_on_the_picture(classifier, pictures):
    picture = pictures[1]
    result = classifier(picture, attention=True)
    assert set(result) == {"predictions", "attention", "attention_std", "overlay"}
    assert result["predictions"] == classifier(picture)
    with torch.no_grad():
        outputs = classifier.model(
            classifier.image_processor(picture, return_tensors="pt")["pixel_values"],
            generator=torch.Generator().manual_seed(0),
        )
    maps = outputs.attention_maps[0].numpy()
    for name, expected in (("attention", maps.mean(axis=0)), ("attention_std", maps.std(axis=0))):
        assert result[name].shape == (48, 64) and result[name].dtype == np.float32
        # Enlarged three and four times: the middle of each cell keeps its score but for what neighbours blend in.
        resized = Image.fromarray(expected).resize((64, 48), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(result[name], np.asarray(resized), atol=1e-6)
    assert result["overlay"].tobytes() == draw_attention(picture, maps.mean(axis=0)).tobytes()


def test_attention_of_the_mean_map(pictures):
    classifier = make_pipeline(stochastic_eval=False)
    results = classifier(pictures, attention=True, batch_size=2)
    assert [set(result) for result in results] == [{"predictions", "attention", "overlay"}] * 3
    for picture, result in zip(pictures, results, strict=True):
        assert result["overlay"].size == picture.size and result["attention"].shape == picture.size[::-1]
        assert 0 < result["attention"].min() <= result["attention"].max() < 1


def test_what_the_processor_cuts_off_has_no_attention(pictures):
    size = {"size": {"height": 80, "width": 80}, "crop_size": {"height": 40, "width": 64}}
    classifier = make_pipeline(AIBImageProcessor(do_center_crop=True, **size), stochastic_eval=False)
    picture = pictures[0]  # 64 x 40 pixels
    result = classifier(picture, attention=True)
    seen = np.isfinite(result["attention"])
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (10, 29, 6, 57) and seen.sum() == 20 * 52
    drawn, original = np.asarray(result["overlay"]), np.asarray(picture)
    np.testing.assert_array_equal(drawn[~seen], original[~seen])
    assert (drawn[seen] != original[seen]).any(axis=-1).mean() > 0.9


def test_quantised_maps_are_those_that_the_network_used(pictures):
    classifier = make_pipeline(use_quantization=True, num_anchors=2, stochastic_eval=False)
    attention = classifier(pictures[0], attention=True)["attention"]
    assert attention.min() >= 0 and {0.0, 1.0} & set(np.unique(attention))


def test_pictures_of_any_kind(classifier, pictures, tmp_path):
    pictures[0].save(tmp_path / "picture.png")
    expected = classifier(pictures[0], attention=True)
    for given in (str(tmp_path / "picture.png"), np.asarray(pictures[0])):
        result = classifier(given, attention=True)
        assert result["predictions"] == expected["predictions"]
        assert result["overlay"].tobytes() == expected["overlay"].tobytes()


def test_other_classifiers_have_labels_but_no_attention(pictures):
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=4)).eval()
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32})
    parts = {"model": model, "image_processor": processor}
    classifier = AttentionImageClassificationPipeline(**parts)
    assert classifier(pictures) == ImageClassificationPipeline(**parts)(pictures)
    assert not classifier.has_attention and not classifier.is_stochastic
    with pytest.raises(
        ValueError, match="`attention` cannot be given: ViTForImageClassification has no attention map"
    ):
        classifier(pictures[0], attention=True)
    with pytest.raises(ValueError, match="`num_samples` cannot be used: ViTForImageClassification draws no random"):
        classifier(pictures[0], num_samples=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "yes"}, "`attention` must be True or False, got 'yes'"),
        ({"num_samples": 0}, "`num_samples` must be a whole number of 1 or more, got 0"),
        ({"num_samples": 2.0}, "`num_samples` must be a whole number"),
        ({"seed": -2}, "`seed` must be a whole number of -1 or more, got -2"),
        ({"seed": True}, "`seed`"),
    ],
)
def test_bad_options(classifier, pictures, options, message):
    with pytest.raises(ValueError, match=message):
        classifier(pictures[0], **options)


@pytest.mark.usefixtures("auto_image_processor")
def test_both_tasks_load_a_folder_and_stay_themselves(classifier, pictures, tmp_path, caplog):
    classifier.model.save_pretrained(tmp_path)
    classifier.image_processor.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        loaded = pipeline("attention-image-classification", model=str(tmp_path))
        plain = pipeline("image-classification", model=str(tmp_path))
    assert "not supported" not in caplog.text
    assert type(loaded) is AttentionImageClassificationPipeline and type(plain) is ImageClassificationPipeline
    assert loaded(pictures) == classifier(pictures)
    torch.manual_seed(0)
    first = plain(pictures[0])
    torch.manual_seed(0)
    assert first == plain(pictures[0]) and {entry["label"] for entry in first} <= set(classifier.model.config.label2id)
    assert len(plain(pictures, batch_size=2)) == 3
