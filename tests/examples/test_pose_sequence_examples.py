"""Training of SmoothNet and DeciWatch as users run it: alone, on two processes, stopped and resumed; and its evaluation."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, AutoModelForTimeSeriesPrediction

import hvmodels  # noqa: F401
from hvmodels.conversion import convert_checkpoint
from hvmodels.datasets.pose_sequence import PosePair
from hvmodels.datasets.sequence_archives import read_sequence_archive, write_sequence_archive
from hvmodels.models.pose_sequence import DeciWatchConfig, DeciWatchFeatureExtractor, DeciWatchForPoseRecovery
from tests.examples.launch import ENVIRONMENT, two_processes


pytest.importorskip("accelerate")

EXAMPLES = Path(__file__).parents[2] / "examples" / "pose_sequence"
SCRIPTS = ["train_pose_sequence", "train_pose_sequence_accelerate"]
NAMES = [
    "pose_recipe", "optimization", "train_pose_estimation", "pose_sequence_recipe", *SCRIPTS, "make_recipes",
    "convert_released_data", "evaluate_released", "evaluate_pose_sequence",
]  # fmt: skip
SMOOTHNET = {
    "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "hidden_dropout_prob": 0.0,
    "window_normalization": "person",
}  # fmt: skip
DECIWATCH = {"hidden_size": 8, "encoder_layers": 1, "decoder_layers": 1, "window_normalization": "person"}


@pytest.fixture(scope="module")
def scripts():
    """The modules of the examples by their names."""
    path = list(sys.path)
    sys.path.insert(0, str(EXAMPLES))
    importlib.import_module("pose_sequence_recipe")  # adds the folder of what it shares
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path[:] = path
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def run(scripts):
    """Run a script in this process."""

    def call(script, *arguments):
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        scripts[script].main(list(arguments))
        AcceleratorState._reset_state(reset_partial_state=True)

    return call


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Archives of motion capture to train and to test on: five joints that swing, with white noise in the estimates."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("motion")
    for name, lengths in (("train", (60, 50, 9)), ("test", (40, 41))):
        frames, starts = sum(lengths), np.cumsum([0, *lengths[:-1]])
        phases = rng.uniform(0, 6, size=(1, 5, 3)) + np.arange(frames)[:, None, None] / 8
        joints = 400 * np.sin(phases) + [0, 0, 1000]
        rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        camera = joints @ rotation.T + [0, 900, 5000]
        pixels = camera[..., :2] / camera[..., 2:] * 1145 + 500
        noise = rng.normal(size=(frames, 5, 3))
        np.savez(
            folder / f"{name}.npz",
            joints3d=joints,
            det2d=np.concatenate([pixels + 4 * noise[..., :2], np.ones((frames, 5, 1))], axis=-1),
            pred3d=camera - camera[:, :1] + 30 * noise * (np.arange(5) > 0)[:, None],
            K=np.tile([[1145.0, 0, 500], [0, 1145, 500], [0, 0, 1]], (len(lengths), 1, 1)),
            R=np.tile(rotation, (len(lengths), 1, 1)),
            t=np.tile([0.0, 900, 5000], (len(lengths), 1)),
            seq_id=[f"swing {index}" for index in range(len(lengths))],
            seq_start=starts,
            seq_len=lengths,
            fps=[30],
            image_size=[1000, 1000],
        )
    return folder


def smoothnet_options(archives, output_dir, *extra):
    return [
        f"--train_data={archives / 'train.npz'}", f"--validation_data={archives / 'test.npz'}", "--batch_size=32",
        f"--config={json.dumps(SMOOTHNET)}", "--window_size=8", "--epochs=16", "--evaluate_every=8",
        "--learning_rate=0.02", f"--output_dir={output_dir}", *extra,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def runs(run, archives, tmp_path_factory):
    """Folder of an undisturbed run of each script."""
    folders = {script: tmp_path_factory.mktemp("run") / "output" for script in SCRIPTS}
    for script, folder in folders.items():
        run(script, *smoothnet_options(archives, folder))
    return folders


def report_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_runs_learn_and_agree(runs, scripts, archives):
    first, second = (runs[script] for script in SCRIPTS)
    history = report_of(first)["history"]
    assert [entry["epoch"] for entry in history] == [8, 16] and report_of(first)["num_processes"] == 1
    assert history[1]["learning_rate"] == pytest.approx(0.02 * 0.95**16)
    assert history[1]["train_loss"] < history[0]["train_loss"]
    assert history == report_of(second)["history"]
    torch.testing.assert_close(weights_of(first), weights_of(second), rtol=0, atol=0)

    # Noise of 30 mm in each coordinate has an error of 48 mm over four of five joints; acceleration times the root of 6.
    pairs = scripts["pose_sequence_recipe"].read_motion(archives / "test.npz", "3D")
    raw = [scripts["pose_sequence_recipe"].pair_errors(pair, pair.poses) for pair in pairs]
    raw = {name: np.concatenate([errors[name] for errors in raw]).mean() for name in raw[0]}
    assert raw["error"] == pytest.approx(48 * 4 / 5, rel=0.1)
    assert raw["acceleration error"] == pytest.approx(48 * 4 / 5 * 6**0.5, rel=0.1)
    assert (
        history[1]["error"] < 0.7 * raw["error"] and history[1]["acceleration error"] < 0.2 * raw["acceleration error"]
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_resumed_run_equals_undisturbed(script, run, runs, archives, tmp_path):
    run(script, *smoothnet_options(archives, tmp_path / "output", "--epochs=8"))
    run(script, *smoothnet_options(archives, tmp_path / "output", "--resume"))
    assert report_of(tmp_path / "output")["history"] == report_of(runs[script])["history"]
    torch.testing.assert_close(weights_of(tmp_path / "output"), weights_of(runs[script]), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"`--resume` needs the recipe of the run .*learning_rate"):
        run(script, *smoothnet_options(archives, tmp_path / "output", "--resume", "--learning_rate=0.1"))


def test_two_processes_equal_one(run, runs, archives, tmp_path):
    """Both scripts under one launch, since a launch costs more than the training; both go on with a run that was stopped."""
    run(SCRIPTS[1], *smoothnet_options(archives, tmp_path / SCRIPTS[1], "--epochs=8"))
    calls = [
        (SCRIPTS[0], smoothnet_options(archives, tmp_path / SCRIPTS[0], "--epochs=8")),
        (SCRIPTS[0], smoothnet_options(archives, tmp_path / SCRIPTS[0], "--resume")),
        (SCRIPTS[1], smoothnet_options(archives, tmp_path / SCRIPTS[1], "--resume")),  # ends the processes' group
    ]
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(EXAMPLES)!r})\n"
        f"for script, options in {calls!r}:\n"
        "    importlib.import_module(script).main(options)\n"
    )
    command = [sys.executable, *two_processes(), str(driver)]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, timeout=600)
    for script in SCRIPTS:
        one, two = report_of(runs[script]), report_of(tmp_path / script)
        assert two["num_processes"] == 2 and [entry["epoch"] for entry in two["history"]] == [8, 16]
        for name, value in one["history"][-1].items():
            assert two["history"][-1][name] == pytest.approx(value, rel=1e-3)
        torch.testing.assert_close(weights_of(tmp_path / script), weights_of(runs[script]), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Folders as DeciWatch publishes them: SMPL poses of 3DPW, and joints of Sub-JHMDB in the picture."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("release")
    for phase, lengths in (("train", (30, 25)), ("test", (24, 5))):
        for name, noise in (("detected_poses/{0}/{1}/{0}_{1}", 1.0), ("groundtruth_poses/{0}/{0}_gt", 0.0)):
            turns = [np.cumsum(rng.normal(size=(count, 72)) / 50, axis=0) for count in lengths]
            path = folder / f"{name.format('pw3d', 'spin')}_{phase}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sequence_archive(path, {"pose": [pose + noise * rng.normal(size=pose.shape) / 20 for pose in turns]})
            places = [rng.uniform(50, 150, size=(count, 30)) for count in lengths]
            boxes = [np.tile([40, 40, 160, 160], (count, 1)) for count in lengths]
            entries = {"joints_2d": places, "imgshape": [np.array([240, 320, 3])] * 2, "bbox": boxes}
            path = folder / f"{name.format('jhmdb', 'simplepose')}_{phase}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sequence_archive(path, entries)
    return folder


def test_published_recipe_of_rotations(run, release, tmp_path):
    """DeciWatch on SMPL's rotations by its recipe, but small."""
    recipe = EXAMPLES / "recipes" / "deciwatch_pw3d_spin_smpl.json"
    config = {**json.loads(recipe.read_text())["config"], "hidden_size": 8, "encoder_layers": 1, "decoder_layers": 1}
    run(
        "train_pose_sequence_accelerate", f"--recipe={recipe}", "--setting=interval_5", f"--train_data={release}",
        f"--validation_data={release}", f"--config={json.dumps(config)}", "--num_intervals=2", "--batch_size=8",
        "--window_stride_intervals=2", "--epochs=2", f"--output_dir={tmp_path / 'output'}",
    )  # fmt: skip
    history = report_of(tmp_path / "output")["history"]
    assert 0 < history[-1]["error"] < 60 and history[-1]["learning_rate"] == pytest.approx(1e-3 * 0.99**2)
    model = AutoModelForTimeSeriesPrediction.from_pretrained(tmp_path / "output")
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path / "output")
    assert (model.config.num_joints, model.config.joint_dim, model.config.window_size) == (24, 6, 11)
    assert extractor.frame_indices(12) == [0, 5, 10, 11] and not model.config.pre_norm


def test_error_of_rotations_is_their_angle(scripts):
    axis = np.array([0.6, 0.0, 0.8])
    poses = np.zeros((4, 2, 3)) + np.array([0, 1, 0, 0])[:, None, None] * 0.001 * axis
    pair = PosePair("turn", poses, np.zeros((4, 2, 3)), "axis_angle")
    errors = scripts["pose_sequence_recipe"].pair_errors(pair, pair.poses)
    angle = np.degrees(0.001)
    np.testing.assert_allclose(errors["error"], [0, angle, 0, 0], atol=0.02)
    np.testing.assert_allclose(errors["acceleration error"], [2 * angle, angle], rtol=0.01)


def test_recipe_files_are_the_table(scripts):
    """Sizes and numbers of parameters are those that the papers' repositories have."""
    parameters = {
        "smoothnet_aist_vibe_3D": 691_872, "smoothnet_h36m_fcn_3D": 691_872, "smoothnet_pw3d_spin_3D": 50_224,
        "deciwatch_aist_spin_3D": 1_700_180, "deciwatch_aist_spin_smpl": 1_804_576,
        "deciwatch_h36m_fcn_3D": 1_709_414, "deciwatch_jhmdb_simplepose_2D": 1_687_612,
        "deciwatch_pw3d_eft_3D": 78_268, "deciwatch_pw3d_eft_smpl": 1_142_048, "deciwatch_pw3d_pare_3D": 242_708,
        "deciwatch_pw3d_pare_smpl": 79_840, "deciwatch_pw3d_spin_3D": 242_708, "deciwatch_pw3d_spin_smpl": 176_288,
    }  # fmt: skip
    contents = scripts["make_recipes"].recipes()
    files = {path.stem: path for path in (EXAMPLES / "recipes").glob("*.json")}
    assert parameters.keys() == contents.keys() <= files.keys()
    recipe_class = scripts["pose_sequence_recipe"].PoseSequenceRecipe
    for name, path in files.items():
        content = json.loads(path.read_text())
        assert content == json.loads(json.dumps(contents.get(name, content)))
        sizes = {}
        for setting in (None, *content.get("settings", {})):
            values = scripts["pose_recipe"].read_recipe(str(path), setting, recipe_class)
            recipe = recipe_class(**values)
            joints = recipe.config.get("num_joints", 17)
            pair = PosePair("", np.zeros((1, joints, 3)), np.zeros((1, joints, 3)), "metre")
            config = recipe.model_config(pair)
            sizes[setting] = config.window_size
        if name in parameters:
            assert (recipe.epochs, recipe.seed, recipe.sampler) == (70, 4321, "original")
            with torch.device("meta"):
                recipe = recipe_class(**scripts["pose_recipe"].read_recipe(str(path), None, recipe_class))
                model = scripts["pose_sequence_recipe"].METHODS[recipe.method][1](recipe.model_config(pair))
            assert sum(parameter.numel() for parameter in model.parameters()) == parameters[name]
        if name.startswith("smoothnet_"):
            assert sizes == {None: 32, "window_8": 8, "window_16": 16, "window_64": 64}
        elif name.startswith("deciwatch_") and "jhmdb" not in name:
            assert (sizes[None], sizes["interval_1"], sizes["interval_3"], sizes["interval_20"]) == (
                101,
                101,
                100,
                101,
            )
        elif "jhmdb" in name:
            assert (sizes[None], sizes["interval_1"], sizes["interval_5"], sizes["interval_20"]) == (11, 11, 11, 21)


def test_bad_settings(scripts, archives):
    recipe_class = scripts["pose_sequence_recipe"].PoseSequenceRecipe
    data = {"train_data": str(archives / "train.npz")}
    for options, message in (
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"learning_rate_decay": 1.5}, "`learning_rate_decay` must be above 0 and at most 1, got 1.5"),
        ({"representation": "smpl"}, "belong to a `release`"),
        ({"release": "smoothnet"}, "`dataset` and `estimator` must name the files"),
        ({"model": "folder", "config": "{}"}, "leave out `config`"),
        ({}, "`train_data` must name the data to train on"),
        ({**data, "config": '{"hidden": 3}'}, r"fields that smoothnet lacks: \['hidden'\]"),
        ({**data, "sample_interval": 3}, r"fields that smoothnet lacks: \['sample_interval'\]"),
        ({**data, "batch_size": 5000}, "`batch_size` must be at most the number of training windows"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_class(**options).load_data()


def test_conversion_of_a_folder(scripts, release, tmp_path):
    scripts["convert_released_data"].main([str(release), str(tmp_path)])
    old, new = (sorted(path.relative_to(folder) for path in folder.rglob("*.npz")) for folder in (release, tmp_path))
    assert old == new and len(old) == 8
    pose = read_sequence_archive(tmp_path / "groundtruth_poses/pw3d/pw3d_gt_test.npz")["pose"]
    assert [entry.shape for entry in pose] == [(24, 72), (5, 72)]
    with pytest.raises(ValueError, match=r"`source` must be a folder with \.npz files"):
        scripts["convert_released_data"].main([str(tmp_path / "absent"), str(tmp_path / "new")])


@pytest.mark.parametrize(
    ("case", "estimator", "figures"),
    [
        (
            "smoothnet/h36m_2d_w8",
            "cpn",
            {"MPJPE": "smoothnet_mpjpe", "PA-MPJPE": "smoothnet_pampjpe", "ACCEL": "smoothnet_accel",
             "input_MPJPE": "input_mpjpe", "MPJPE_top1": "smoothnet_mpjpe_top1"},
        ),
        (
            "smoothnet/h36m_3d_w32",
            "fcn",
            {"MPJPE": "smoothnet_mpjpe", "PA-MPJPE": "smoothnet_pampjpe", "ACCEL": "smoothnet_accel",
             "input_ACCEL": "input_accel", "input_PA-MPJPE": "input_pampjpe", "ACCEL_top1": "smoothnet_accel_top1"},
        ),
        (
            "deciwatch/h36m_3d_n10_q2",
            "fcn",
            {"MPJPE": "output_mpjpe", "PA-MPJPE": "output_pampjpe", "ACCEL": "output_accel",
             "input_MPJPE": "input_mpjpe", "input_ACCEL": "input_accel", "relative_MPJPE": "relative_improvement_mpjpe"},
        ),
        (
            "deciwatch/jhmdb_2d_n5_q3",
            "simplepose",
            {"PCK@0.05": "output_pck_005", "PCK@0.1": "output_pck_01", "PCK@0.2": "output_pck_02",
             "input_PCK@0.05": "input_pck_005", "input_PCK@0.2": "input_pck_02"},
        ),
    ],
)  # fmt: skip
def test_evaluation_of_a_release_equals_the_original(scripts, shared_data, case, estimator, figures, tmp_path, capsys):
    """From the released layout and an original checkpoint to the figures that the original's own evaluation gives."""
    release, name = case.split("/")
    dataset, representation = name.split("_")[0], name.split("_")[1].upper()
    stored = load_file(shared_data / "parity" / case / "io.safetensors")
    key = f"joints_{representation.lower()}"
    if release == "smoothnet":
        folder = f"{dataset}_{estimator}_{representation}"
        paths = [f"{folder}/detected/{folder}_test", f"{folder}/groundtruth/{dataset}_gt_{representation}_test"]
    else:
        paths = [
            f"detected_poses/{dataset}/{estimator}/{dataset}_{estimator}_test",
            f"groundtruth_poses/{dataset}/{dataset}_gt_test",
        ]
    for path, kind in zip(paths, ("pred", "gt"), strict=True):
        entries = {key: [stored[f"input.{kind}.{index}"].numpy() for index in range(3)]}
        for extra in ("bbox", "imgshape"):
            if f"input.{extra}.0" in stored:
                entries[extra] = [stored[f"input.{extra}.{index}"].numpy() for index in range(3)]
        path = tmp_path / "data" / f"{path}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sequence_archive(path, entries)
    parity = shared_data / "parity" / case
    convert_checkpoint(release, parity / "checkpoint.pth", tmp_path / "model", parity / "config.json")
    scripts["evaluate_released"].main(
        [f"--release={release}", f"--data={tmp_path / 'data'}", f"--dataset={dataset}", f"--estimator={estimator}",
         f"--representation={representation}", f"--model={tmp_path / 'model'}", f"--output={tmp_path / 'figures.json'}"]
    )  # fmt: skip
    measured = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for ours, theirs in figures.items():
        expected = float(stored[f"output.eval.{theirs}"]) * (100 if "PCK" in ours else 1)
        assert measured[ours] == pytest.approx(expected, rel=1e-4), ours
    assert "3 sequences" in capsys.readouterr().out


def test_published_figures(scripts):
    published = scripts["evaluate_released"].published_figures
    key = {"release": "smoothnet", "dataset": "pw3d", "estimator": "spin", "representation": "3D"}
    assert published(32, **key) == {"MPJPE": 95.84, "input_MPJPE": 96.85, "ACCEL": 6.17, "input_ACCEL": 34.55}
    assert published(8, **key) == {}
    assert published(5, **{**key, "release": "deciwatch"}) == {"MPJPE": 92.2, "ACCEL": 8.15}


def test_table_by_one_command(scripts, runs, archives, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    config = DeciWatchConfig(**DECIWATCH, num_joints=5, joint_dim=3, sample_interval=5, num_intervals=2)
    DeciWatchForPoseRecovery(config).save_pretrained(tmp_path / "deciwatch")
    DeciWatchFeatureExtractor(sample_interval=5).save_pretrained(tmp_path / "deciwatch")
    rng = np.random.default_rng(0)
    course = np.cumsum(np.cumsum(rng.normal(size=(60, 5, 2)), axis=0), axis=0)
    found = np.concatenate([course + rng.normal(size=course.shape), np.ones((60, 5, 1))], axis=-1)
    found[7, 2] = 0  # a miss
    np.savez(
        tmp_path / "detections.npz", openpose=found[None], mediapipe=found[None], gt2d=course[None], camera=["cam"],
        gt_valid=np.array([True] * 4 + [False]), image_size=[[640, 480]], fps=[60],
    )  # fmt: skip
    arguments = [
        f"--data={archives / 'test.npz'}", f"--detections={tmp_path / 'detections.npz'}", "--plot_joint=3",
        f"--smoothnet={runs[SCRIPTS[0]]}", f"--deciwatch_3d={tmp_path / 'deciwatch'}", "--deciwatch_2d=none",
        f"--output_dir={tmp_path / 'report'}",
    ]  # fmt: skip
    scripts["evaluate_pose_sequence"].main(arguments)
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert printed.strip() == (tmp_path / "report" / "evaluation.md").read_text().strip()
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "evaluation.json", "evaluation.md", "coordinate_2D.png", "coordinate_3D.png",
    }  # fmt: skip
    rows = list(report["data"]["3D"])
    assert rows[0] == "none" and rows[-3:] == ["SmoothNet", "DeciWatch", "DeciWatch, then SmoothNet"]
    assert list(report["data"]["2D"]) == rows[:-2]
    # Frames 0, 5, ... and the last one, of 40 and of 41.
    assert report["share of frames DeciWatch looks at"] == {"3D": pytest.approx((9 + 9) / 81)}
    table = report["data"]["3D"]
    assert table["none"]["clean error"] == 0 and table["SmoothNet"]["error"] < 0.7 * table["none"]["error"]
    # The pelvis does not count: 48 mm in all the others.
    assert table["none"]["error"] == pytest.approx(48, rel=0.1)
    detections = report["detections"]["openpose"]
    assert list(detections) == rows[:-2]
    assert detections["none"]["lag"] == 0 and abs(detections["Gaussian, sigma 2"]["lag"]) < 0.2
    assert detections["Gaussian, sigma 2"]["jitter"] < 0.5 * detections["none"]["jitter"]
    assert detections["none"]["error"] == pytest.approx(np.sqrt(np.pi / 2), rel=0.1)


def test_lag(scripts):
    times = np.arange(80)[:, None, None] / 6 + np.arange(3)[:, None]
    course = 30 * np.sin(times) * [1, 2]
    late = 30 * np.sin(times - 2.5 / 6) * [1, 2] + [5, -3]
    lag_of = scripts["evaluate_pose_sequence"].lag_of
    assert lag_of([late], [course]) == 2.5 and lag_of([course], [late]) == -2.5


def test_plain_filters_have_the_published_figures(scripts, shared_data):
    """The table beside the data, which was made by other code."""
    expected = {
        "none": (54.87, 15.62, 5.74, 3.99),
        "Gaussian, sigma 1": (54.18, 5.56, 5.54, 1.08),
        "Gaussian, sigma 2": (53.76, 4.58, 5.62, 0.84),
        "Savitzky-Golay, 11 frames, order 2": (54.36, 5.50, 5.59, 1.06),
        "median 5, then Gaussian, sigma 1": (53.80, 5.13, 5.54, 0.98),
        "median 9, then Gaussian, sigma 2": (53.72, 4.52, 5.79, 0.84),
    }
    module = scripts["evaluate_pose_sequence"]
    methods = module.make_methods(None, None)
    for kind, joints, columns in (("3D", slice(1, None), slice(0, 2)), ("2D", slice(0, None), slice(2, 4))):
        pairs = module.read_motion(shared_data / "data" / "motion" / "cmu_test.npz", kind)
        for name, figures in expected.items():
            found = module.measure(pairs, methods[name], joints)
            assert (round(found["error"], 2), round(found["acceleration error"], 2)) == figures[columns], name
