"""Every card in `model_cards`: metadata, sections, figures, snippets."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

import hvmodels
from hvmodels import (
    AIBConfig,
    AIBForImageClassification,
    EDPoseForPoseEstimation,
    EDPoseImageProcessor,
    MartinezFCNConfig,
    MartinezFCNFeatureExtractor,
    MartinezFCNForPoseLifting,
    RLEConfig,
    RLEForPoseEstimation,
    VideoPose3DConfig,
    VideoPose3DFeatureExtractor,
    VideoPose3DForPoseLifting,
)
from hvmodels.methods import METHODS, TASKS
from hvmodels.models.aib.image_processing_aib import AIBImageProcessor
from hvmodels.models.pose_sequence import (
    DeciWatchConfig,
    DeciWatchFeatureExtractor,
    DeciWatchForPoseRecovery,
    SmoothNetConfig,
    SmoothNetFeatureExtractor,
    SmoothNetForPoseRefinement,
)
from hvmodels.models.rle.image_processing_rle import RLEImageProcessor
from hvmodels.models.vitkd.image_processing_vitkd import ViTKDImageProcessor
from tests.tiny_models import tiny_ed_pose_config


FOLDER = Path(__file__).parents[1] / "model_cards"
CARDS = sorted(FOLDER.glob("*.md"), key=lambda path: path.stem)
SECTIONS = ["Intended use and limits", "Use", "How the weights came about", "Evaluation", "Licence", "Citation"]
ED_POSE_CARDS = {
    f"ed-pose-{variant}"
    for variant in (
        "r50",
        "r50-crowdpose",
        "r50-humanart",
        "swinl",
        "swinl-crowdpose",
        "swinl-5scale",
        "swinl-5scale-crowdpose",
    )
}
ORIGINAL_RLE_CARDS = {"rle-r50-coco", "rle-r50-h36m"}
MMPOSE_RLE_CARDS = {"rle-resnet-coco-mmpose", "rle-mobilenetv2-coco-mmpose", "rle-r50-mpii-mmpose"}
SEQUENCE_CARDS = {
    *(
        f"smoothnet-{variant}"
        for variant in ("aist-vibe-3d", "h36m-fcn-3d", "h36m-mmpose", "pw3d-mmhuman3d", "pw3d-spin-3d")
    ),
    *(
        f"deciwatch-{variant}"
        for variant in (
            "aist-spin-3d",
            "aist-spin-smpl",
            "h36m-fcn-3d",
            "jhmdb-2d",
            "pw3d-3d",
            "pw3d-mmhuman3d",
            "pw3d-smpl",
        )
    ),
}
VITKD_CARDS = {f"deit-{size}-vitkd{losses}" for size in ("tiny", "small", "base") for losses in ("", "-nkd")}
AIB_CARDS = {f"aib-{network}" for network in ("vgg-cifar", "wrn28x10-cifar", "vgg16-cub", "wrn50-cub")}
LIFTING_CARDS = {"videopose3d-h36m-cpn", "videopose3d-humaneva15-detectron", "martinez-fcn-h36m"}
# Human3.6M's 17 joints of a person who stands, pixels.
STANDING = [
    (300, 300), (280, 300), (275, 380), (272, 460), (320, 300), (325, 380), (328, 460), (300, 250), (300, 200),
    (300, 180), (300, 155), (330, 205), (350, 250), (360, 295), (270, 205), (250, 250), (240, 295),
]  # fmt: skip
# The Hub has no tags for these tasks.
TAGS_WITHOUT_TASK = {"pose-lifting", "pose-refinement", "skeleton-action-recognition"}
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(params=CARDS, ids=lambda path: path.stem)
def card(request):
    return ModelCard.load(request.param)


@pytest.fixture(params=sorted(ED_POSE_CARDS))
def ed_pose_card(request):
    return ModelCard.load(FOLDER / f"{request.param}.md")


@pytest.fixture(params=sorted(ORIGINAL_RLE_CARDS | MMPOSE_RLE_CARDS))
def rle_card(request):
    return request.param, ModelCard.load(FOLDER / f"{request.param}.md")


def test_every_published_model_has_a_card():
    published = ED_POSE_CARDS | ORIGINAL_RLE_CARDS | MMPOSE_RLE_CARDS | SEQUENCE_CARDS | VITKD_CARDS | AIB_CARDS
    assert {path.stem for path in CARDS} >= published | LIFTING_CARDS


def task_of(card):
    """The Hub's task of a card, or the tag that stands for one."""
    return card.data.pipeline_tag or next(iter(TAGS_WITHOUT_TASK & set(card.data.tags)), None)


def test_metadata(card):
    data = card.data
    assert data.library_name == "transformers"
    assert task_of(card) in {task.hub_tag for task in TASKS.values()}
    assert bool(data.pipeline_tag) != bool(TAGS_WITHOUT_TASK & set(data.tags))
    assert "hvmodels" in data.tags
    assert set(METHODS) & set(data.tags)
    assert data.license
    if data.license == "other":
        assert data.license_name
        assert data.license_link.startswith("https://")


def test_figures_are_of_the_task_of_the_card(card):
    for result in card.data.eval_results or []:
        assert result.task_type == task_of(card)
        assert isinstance(result.metric_value, int | float)
        assert result.dataset_type
        assert result.dataset_name


def test_sections_in_order(card):
    headings = re.findall(r"^## (.+)$", card.text, re.MULTILINE)
    assert [heading for heading in headings if heading in SECTIONS] == SECTIONS
    assert len(re.findall(r"^# ", card.text.replace(card.text[card.text.find("```") :], ""), re.MULTILINE)) == 1


def test_snippets_compile_and_name_what_there_is(card):
    snippets = CODE.findall(card.text)
    assert snippets
    for snippet in snippets:
        for node in ast.walk(ast.parse(snippet)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("hvmodels", "transformers"):
                module = __import__(node.module, fromlist=["name"])
                assert all(hasattr(module, alias.name) for alias in node.names)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hvmodels":
                assert hasattr(hvmodels, node.attr)
    # A distilled student is a plain model of transformers.
    assert any("import hvmodels" in snippet for snippet in snippets) or "vitkd" in card.data.tags


def test_figures_of_ed_pose_are_in_the_text_with_their_source(ed_pose_card):
    results = ed_pose_card.data.eval_results
    assert {"AP", "AP50", "AP75"} <= {result.metric_type for result in results}
    for result in results:
        assert result.source_url == "https://github.com/IDEA-Research/ED-Pose"
        assert "published by the authors" in result.metric_name
        row = next(line for line in ed_pose_card.text.splitlines() if line.startswith(f"| {result.dataset_name} "))
        figures = ed_pose_card.text.split(row)[1].splitlines()[2]
        assert f"| {result.metric_value} |" in figures


def test_ed_pose_is_not_for_commerce(ed_pose_card):
    assert ed_pose_card.data.license == "other"
    assert ed_pose_card.data.license_name == "idea-license-1.0"
    assert "on-commercial" in ed_pose_card.text


@pytest.fixture(params=sorted(SEQUENCE_CARDS))
def sequence_card(request):
    return request.param, ModelCard.load(FOLDER / f"{request.param}.md")


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """Folder of a model in miniature."""
    folder = tmp_path_factory.mktemp("cards") / "model"
    config = tiny_ed_pose_config()
    EDPoseForPoseEstimation(config).save_pretrained(folder)
    EDPoseImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("auto_image_processor")
def test_snippets_of_ed_pose_run(ed_pose_card, tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [name] = set(re.findall(r"^hvmodels convert ed-pose \S+ (\S+)$", ed_pose_card.text, re.MULTILINE))
    Path(name).symlink_to(tiny_model)
    Image.new("RGB", (80, 60), "grey").save("picture.jpg")
    for snippet in CODE.findall(ed_pose_card.text):
        exec(compile(snippet, "snippet", "exec"), {})
    assert Path("poses.png").is_file()


def test_figures_of_rle_are_in_the_text_with_their_source(rle_card):
    name, card = rle_card
    tables = [line.strip("| ").split(" | ") for line in card.text.splitlines() if line.startswith("| ")]
    figures = {(head, cell) for table in tables[:1] for row in tables for head, cell in zip(table, row, strict=False)}
    source = (
        "https://arxiv.org/abs/2107.11291" if name in ORIGINAL_RLE_CARDS else "https://github.com/open-mmlab/mmpose"
    )
    assert card.data.eval_results
    for result in card.data.eval_results:
        assert result.source_url.startswith(source)
        assert "not measured again" in result.metric_name
        assert (result.metric_type, str(result.metric_value)) in figures
        assert tables[0][0] == result.dataset_name


def test_licence_of_rle(rle_card):
    """The authors state none, so that nobody may pass their weights on; MMPose does."""
    name, card = rle_card
    if name in ORIGINAL_RLE_CARDS:
        assert (card.data.license, card.data.license_name) == ("other", "no-licence-stated")
        assert "**no licence file**" in card.text
        assert "Do not pass the weights on" in card.text
    else:
        assert card.data.license == "apache-2.0"


@pytest.fixture(scope="module")
def tiny_rle_models(tmp_path_factory):
    """Folders of models in miniature, by the number of coordinates."""
    backbone = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [16, 16, 16, 16],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage4"],
    }
    folders = {}
    for keypoint_dim in (2, 3):
        folders[keypoint_dim] = tmp_path_factory.mktemp("cards") / "model"
        RLEForPoseEstimation(RLEConfig(backbone_config=backbone, keypoint_dim=keypoint_dim)).save_pretrained(
            folders[keypoint_dim]
        )
        RLEImageProcessor(size={"height": 64, "width": 48}).save_pretrained(folders[keypoint_dim])
    return folders


@pytest.mark.usefixtures("auto_image_processor")
def test_snippets_of_rle_run(rle_card, tiny_rle_models, tmp_path, monkeypatch):
    _, card = rle_card
    monkeypatch.chdir(tmp_path)
    [folder] = set(re.findall(r"^hvmodels convert rle \S+ (\S+)$", card.text, re.MULTILINE))
    Path(folder).symlink_to(tiny_rle_models[3 if "3d" in card.data.tags else 2])
    Image.new("RGB", (320, 400), "grey").save("picture.jpg")
    for snippet in CODE.findall(card.text):
        exec(compile(snippet, "snippet", "exec"), {})
    assert Path("poses.png").is_file()


@pytest.mark.parametrize("name", ["smoothnet-any-pose", "deciwatch-2d", "deciwatch-3d"])
def test_snippet_of_an_embedded_pose_sequence_model_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    poses = np.random.default_rng(0).uniform(100, 300, (40, 17, 2 if name == "deciwatch-2d" else 3))
    np.save("poses.npy", poses)
    for snippet in CODE.findall(ModelCard.load(FOLDER / f"{name}.md").text):
        variables = {}
        exec(compile(snippet, "snippet", "exec"), variables)
        assert variables["refined"].shape == poses.shape


def test_figures_of_pose_sequences_are_in_the_text_with_their_source(sequence_card):
    name, card = sequence_card
    cells = {value.strip() for line in card.text.splitlines() for cell in line.split("|") for value in cell.split("/")}
    repository = "cure-lab" if not name.endswith(("mmpose", "mmhuman3d")) else "open-mmlab"
    assert card.data.eval_results
    for result in card.data.eval_results:
        assert repository in result.source_url
        assert "not measured again" in result.metric_name
        assert f"{result.metric_value:.2f}" in cells


def test_licence_of_pose_sequences(sequence_card):
    """The authors' licence file and README contradict each other."""
    name, card = sequence_card
    if name.endswith(("mmpose", "mmhuman3d")):
        assert card.data.license == "apache-2.0"
    else:
        assert (card.data.license, card.data.license_name) == ("other", "apache-2.0-and-research-only")
        assert "non-commercial research only" in card.text


def test_snippets_of_pose_sequences_run(sequence_card, tmp_path, monkeypatch):
    name, card = sequence_card
    monkeypatch.chdir(tmp_path)
    [(method, folder)] = set(re.findall(r"^hvmodels convert (\S+) \S+ (\S+)$", card.text, re.MULTILINE))
    joints, dims = map(
        int, re.search(r"# \(frames, (\d+|joints), (\d)\)", card.text.replace("joints,", "5,")).groups()
    )
    smpl = "rotation_format" in card.text and "axis-angle" in card.text
    if method == "smoothnet":
        model = SmoothNetForPoseRefinement(SmoothNetConfig(hidden_size=8, intermediate_size=4, num_hidden_layers=1))
        extractor = SmoothNetFeatureExtractor()
    else:
        sizes = {"hidden_size": 8, "encoder_layers": 1, "decoder_layers": 1, "num_intervals": 2}
        config = DeciWatchConfig(num_joints=joints, joint_dim=6 if smpl else dims, **sizes)
        model = DeciWatchForPoseRecovery(config)
        extractor = DeciWatchFeatureExtractor(
            num_joints=joints, joint_dim=config.joint_dim, normalization="image" if dims == 2 else "none"
        )
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    assert folder == name
    poses = np.random.default_rng(0).uniform(-0.5, 0.5, (40, joints, dims)).astype(np.float32)
    np.save("poses.npy", 100 + 50 * poses if dims == 2 else poses)
    for snippet in CODE.findall(card.text):
        variables = {}
        exec(compile(snippet, "snippet", "exec"), variables)
        refined = variables["refined"] if "refined" in variables else variables["track"]["poses"]
        assert refined.shape == poses.shape
        assert np.isfinite(refined).all()


@pytest.fixture(params=sorted(VITKD_CARDS | LIFTING_CARDS))
def published_card(request):
    return request.param, ModelCard.load(FOLDER / f"{request.param}.md")


def test_figures_of_students_and_lifters_are_in_the_text_with_their_source(published_card):
    name, card = published_card
    cells = {cell.strip() for line in card.text.splitlines() for cell in line.split("|")}
    [result] = card.data.eval_results
    assert "not measured again" in result.metric_name
    assert str(result.metric_value) in cells or f"{result.metric_value} mm" in card.text
    assert result.source_url.startswith("https://github.com/")
    if name.startswith("videopose3d"):
        assert card.data.license == "cc-by-nc-4.0"
        assert "Non-commercial" in card.text


@pytest.mark.usefixtures("auto_image_processor")
@pytest.mark.parametrize("name", sorted(VITKD_CARDS | AIB_CARDS))
def test_snippets_of_image_classifiers_run(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load(FOLDER / f"{name}.md")
    [(method, folder)] = set(re.findall(r"^hvmodels convert (\S+) \S+ (\S+)$", card.text, re.MULTILINE))
    assert (method, folder) == ("aib" if name in AIB_CARDS else "vitkd", name)
    if name in AIB_CARDS:
        sizes = {"image_size": 32, "hidden_sizes": [4, 4, 4, 4], "latent_dim": 4, "num_labels": 6}
        AIBForImageClassification(AIBConfig(**sizes)).save_pretrained(folder)
        AIBImageProcessor().save_pretrained(folder)
    else:
        sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_hidden_layers": 1}
        ViTForImageClassification(ViTConfig(num_labels=6, **sizes)).save_pretrained(folder)
        ViTKDImageProcessor().save_as_vit(folder)
    Image.new("RGB", (320, 400), "grey").save("picture.jpg")
    for snippet in CODE.findall(card.text):
        exec(compile(snippet, "snippet", "exec"), {})
    assert "LABEL_" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(LIFTING_CARDS))
def test_snippets_of_lifters_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = ModelCard.load(FOLDER / f"{name}.md")
    [(method, folder)] = set(
        re.findall(r"^hvmodels convert (\S+) \S+ (\S+)(?: --original.*)?$", card.text, re.MULTILINE)
    )
    assert folder == name
    joints = int(re.search(r"# \(frames, (\d+), 2\)", card.text)[1])
    if method == "videopose3d":
        config = VideoPose3DConfig(hidden_size=4, filter_widths=[3, 3, 3], num_joints=joints, num_output_joints=joints)
        VideoPose3DForPoseLifting(config).save_pretrained(folder)
        VideoPose3DFeatureExtractor(num_frames=27).save_pretrained(folder)
    else:
        MartinezFCNForPoseLifting(MartinezFCNConfig(hidden_size=4)).save_pretrained(folder)
        MartinezFCNFeatureExtractor().save_pretrained(folder)
    np.save("poses.npy", np.tile(np.array(STANDING[:joints], float), (40, 1, 1)))
    for snippet in CODE.findall(card.text):
        variables = {}
        exec(compile(snippet, "snippet", "exec"), variables)
        found = variables["positions"][0] if "positions" in variables else variables["lifted"].tracks[0].keypoints
        assert found.shape == ((14 if "positions" in variables else 40), joints, 3)
