"""The methods of the package: everything a method registers is declared here, once, in one block."""

from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import numpy as np
import transformers
from transformers import AutoConfig, AutoModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .models import aib, ed_pose, forecasting, pose_sequence, rle, vitkd
from .pipelines import (
    AttentionImageClassificationPipeline,
    PoseEstimationPipeline,
    PoseLiftingPipeline,
    PoseRefinementPipeline,
    SkeletonActionRecognitionPipeline,
    TimeSeriesForecastingPipeline,
    VideoPoseEstimationPipeline,
)


@dataclass(frozen=True)
class Task:
    """A pipeline task.

    Args:
        name: Name for `pipeline(name)`.
        pipeline: Pipeline class.
        auto_model: Name of the Auto class that loads its models.
        input_type: transformers' kind of input (`"multimodal"` where none fits).
        hub_tag: The Hub's own tag for the task, `pipeline_tag` of a model card; an alias of `name`, unless transformers
            has a task of that name.
        default_model: Folder inside the package with the model that needs no network, or None.
    """

    name: str
    pipeline: type
    auto_model: str
    input_type: str
    hub_tag: str
    default_model: str | None = None


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        name: Name on the command line.
        title: Name in print.
        paper: arXiv identifier.
        original: Repository of the original code.
        config: Configuration class; its `model_type` is registered.
        model: Base model.
        heads: Auto class name to head.
        feature_extractor: Feature extractor class, if the method has one.
        image_processor: Image processor class, if the method has one.
        task: Name of its pipeline task, if there is one.
        converter: `"module:function"` below `hvmodels.conversion`, loaded when needed.
        checkpoint_types: Harmless types beside tensors that pickled checkpoints of the original hold; a pair gives the
            name by which a pickle calls one.
    """

    name: str
    title: str
    paper: str
    original: str
    config: type
    model: type
    heads: dict[str, type] = field(default_factory=dict)
    feature_extractor: type | None = None
    image_processor: type | None = None
    task: str | None = None
    converter: str | None = None
    checkpoint_types: tuple[type | tuple[Callable, str], ...] = ()

    @property
    def auto_classes(self) -> dict[str, type]:
        """Every class of the method by the name of the Auto class that loads it."""
        classes = {"AutoConfig": self.config, "AutoModel": self.model, **self.heads}
        if self.feature_extractor is not None:
            classes["AutoFeatureExtractor"] = self.feature_extractor
        if self.image_processor is not None:
            classes["AutoImageProcessor"] = self.image_processor
        return classes

    def load_converter(self) -> Callable:
        """The function that turns a checkpoint of the original into model and processor."""
        module, function = self.converter.split(":")
        return getattr(import_module(f"hvmodels.conversion.{module}"), function)


# What pickled NumPy arrays and scalars of numbers consist of; NumPy 2 moved the functions that make them.
NUMPY_ARRAYS = (
    np.ndarray,
    np.dtype,
    *{type(np.dtype(letter)) for letter in "?bhilqBHILQefd"},
    *(
        (make, f"numpy.{core}.multiarray.{make.__name__}")
        for make in (np.ndarray(0).__reduce__()[0], np.float64(0).__reduce__()[0])
        for core in ("core", "_core")
    ),
)


class ForgottenRandomState:
    """Stands for NumPy's random state and what it consists of, which training code keeps beside the weights; it is empty."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


RANDOM_STATES = tuple(
    (ForgottenRandomState, f"numpy.random.{name}")
    for name in (
        "_pickle.__randomstate_ctor",
        "_pickle.__bit_generator_ctor",
        "_mt19937.MT19937",
        "__RandomState_ctor",  # of NumPy before 1.17
    )
)

# mmengine's logged numbers, which are kept as attributes of no meaning; where they name a method, nothing is looked up.
MMENGINE_LOGS = (
    (Namespace, "mmengine.logging.history_buffer.HistoryBuffer"),
    (lambda owner, name: None, "builtins.getattr"),
)

TASKS = {
    task.name: task
    for task in (
        Task(
            name="attention-image-classification",
            pipeline=AttentionImageClassificationPipeline,
            auto_model="AutoModelForImageClassification",
            input_type="image",
            hub_tag="image-classification",
            default_model="assets/aib-clothing",
        ),
        Task(
            name="pose-estimation",
            pipeline=PoseEstimationPipeline,
            auto_model="AutoModelForPoseEstimation",
            input_type="image",
            hub_tag="keypoint-detection",
            default_model="assets/rle-lite0-halpe19",
        ),
        Task(
            name="pose-lifting",
            pipeline=PoseLiftingPipeline,
            auto_model="AutoModelForTimeSeriesPrediction",
            input_type="multimodal",
            hub_tag="pose-lifting",
            default_model="assets/skeletal-gnn-lifter",
        ),
        Task(
            name="pose-refinement",
            pipeline=PoseRefinementPipeline,
            auto_model="AutoModelForTimeSeriesPrediction",
            input_type="multimodal",
            hub_tag="pose-refinement",
            default_model="assets/smoothnet-any-pose",
        ),
        Task(
            name="skeleton-action-recognition",
            pipeline=SkeletonActionRecognitionPipeline,
            auto_model="AutoModelForVideoClassification",
            input_type="multimodal",
            hub_tag="skeleton-action-recognition",
            default_model="assets/skeletal-gnn-actions",
        ),
        Task(
            name="time-series-forecasting",
            pipeline=TimeSeriesForecastingPipeline,
            auto_model="AutoModelForTimeSeriesPrediction",
            input_type="multimodal",
            hub_tag="time-series-forecasting",
            default_model="assets/nlinear-any-series",
        ),
        Task(
            name="video-pose-estimation",
            pipeline=VideoPoseEstimationPipeline,
            auto_model="AutoModelForPoseEstimation",
            input_type="video",
            hub_tag="video-pose-estimation",
            default_model="assets/rle-lite0-halpe19",
        ),
    )
}

METHODS = {
    method.name: method
    for method in (
        Method(
            name="ltsf-linear",
            title="LTSF-Linear (Linear, NLinear, DLinear)",
            paper="2205.13504",
            original="cure-lab/LTSF-Linear",
            config=forecasting.LTSFLinearConfig,
            model=forecasting.LTSFLinearModel,
            heads={"AutoModelForTimeSeriesPrediction": forecasting.LTSFLinearForPrediction},
            feature_extractor=forecasting.LTSFLinearFeatureExtractor,
            task="time-series-forecasting",
            converter="ltsf_linear:convert",
        ),
        Method(
            name="scinet",
            title="SCINet",
            paper="2106.09305",
            original="cure-lab/SCINet",
            config=forecasting.SCINetConfig,
            model=forecasting.SCINetModel,
            heads={"AutoModelForTimeSeriesPrediction": forecasting.SCINetForPrediction},
            feature_extractor=forecasting.SCINetFeatureExtractor,
            task="time-series-forecasting",
            converter="scinet:convert",
        ),
        Method(
            name="ed-pose",
            title="ED-Pose",
            paper="2302.01593",
            original="IDEA-Research/ED-Pose",
            config=ed_pose.EDPoseConfig,
            model=ed_pose.EDPoseModel,
            heads={"AutoModelForPoseEstimation": ed_pose.EDPoseForPoseEstimation},
            image_processor=ed_pose.EDPoseImageProcessor,
            task="pose-estimation",
            converter="ed_pose:convert",
            checkpoint_types=(Namespace,),
        ),
        Method(
            name="aib",
            title="AIB (attentive information bottleneck)",
            paper="2108.03418",
            original="ashleylqx/AIB",
            config=aib.AIBConfig,
            model=aib.AIBModel,
            heads={"AutoModelForImageClassification": aib.AIBForImageClassification},
            image_processor=aib.AIBImageProcessor,
            task="attention-image-classification",
            converter="aib:convert",
            checkpoint_types=(Namespace,),
        ),
        Method(
            name="rle",
            title="RLE (residual log-likelihood estimation)",
            paper="2107.11291",
            original="Jeff-sjtu/res-loglikelihood-regression",
            config=rle.RLEConfig,
            model=rle.RLEModel,
            heads={"AutoModelForPoseEstimation": rle.RLEForPoseEstimation},
            image_processor=rle.RLEImageProcessor,
            task="pose-estimation",
            converter="rle:convert",
            checkpoint_types=NUMPY_ARRAYS,
        ),
        Method(
            name="smoothnet",
            title="SmoothNet",
            paper="2112.13715",
            original="cure-lab/SmoothNet",
            config=pose_sequence.SmoothNetConfig,
            model=pose_sequence.SmoothNetModel,
            heads={"AutoModelForTimeSeriesPrediction": pose_sequence.SmoothNetForPoseRefinement},
            feature_extractor=pose_sequence.SmoothNetFeatureExtractor,
            task="pose-refinement",
            converter="smoothnet:convert",
        ),
        Method(
            name="skeletal-gnn",
            title="Skeletal-GNN",
            paper="2108.07181",
            original="ailingzengzzz/Skeletal-GNN",
            config=pose_sequence.SkeletalGNNConfig,
            model=pose_sequence.SkeletalGNNModel,
            heads={"AutoModelForTimeSeriesPrediction": pose_sequence.SkeletalGNNForPoseLifting},
            feature_extractor=pose_sequence.SkeletalGNNFeatureExtractor,
            task="pose-lifting",
            converter="skeletal_gnn:convert",
        ),
        Method(
            name="skeletal-gnn-action",
            title="Skeletal-GNN for actions",
            paper="2108.07181",
            original="ailingzengzzz/Skeletal-GNN",
            config=pose_sequence.SkeletalGNNActionConfig,
            model=pose_sequence.SkeletalGNNActionModel,
            heads={"AutoModelForVideoClassification": pose_sequence.SkeletalGNNForActionRecognition},
            feature_extractor=pose_sequence.SkeletonActionFeatureExtractor,
            task="skeleton-action-recognition",
            converter="skeletal_gnn:convert",
        ),
        Method(
            name="deciwatch",
            title="DeciWatch",
            paper="2203.08713",
            original="cure-lab/DeciWatch",
            config=pose_sequence.DeciWatchConfig,
            model=pose_sequence.DeciWatchModel,
            heads={"AutoModelForTimeSeriesPrediction": pose_sequence.DeciWatchForPoseRecovery},
            feature_extractor=pose_sequence.DeciWatchFeatureExtractor,
            task="pose-refinement",
            converter="deciwatch:convert",
        ),
        Method(
            name="vitkd",
            title="ViTKD and NKD",
            paper="2209.02432",
            original="yzd-v/cls_KD",
            config=vitkd.ViTKDConfig,
            model=vitkd.ViTKDModel,
            heads={"AutoModelForImageClassification": vitkd.ViTKDForImageClassification},
            image_processor=vitkd.ViTKDImageProcessor,
            converter="vitkd:convert",
            checkpoint_types=(*NUMPY_ARRAYS, *MMENGINE_LOGS),
        ),
        Method(
            name="videopose3d",
            title="VideoPose3D",
            paper="1811.11742",
            original="facebookresearch/VideoPose3D",
            config=pose_sequence.VideoPose3DConfig,
            model=pose_sequence.VideoPose3DModel,
            heads={"AutoModelForTimeSeriesPrediction": pose_sequence.VideoPose3DForPoseLifting},
            feature_extractor=pose_sequence.VideoPose3DFeatureExtractor,
            task="pose-lifting",
            converter="videopose3d:convert",
            checkpoint_types=(*NUMPY_ARRAYS, *RANDOM_STATES),
        ),
        Method(
            name="martinez-fcn",
            title="Fully connected baseline of Martinez et al.",
            paper="1705.03098",
            original="weigq/3d_pose_baseline_pytorch",
            config=pose_sequence.MartinezFCNConfig,
            model=pose_sequence.MartinezFCNModel,
            heads={"AutoModelForTimeSeriesPrediction": pose_sequence.MartinezFCNForPoseLifting},
            feature_extractor=pose_sequence.MartinezFCNFeatureExtractor,
            task="pose-lifting",
            converter="martinez_fcn:convert",
            checkpoint_types=NUMPY_ARRAYS,
        ),
    )
}


def method_of(model_type: str) -> Method:
    """The method whose configuration has this `model_type`.

    Raises:
        ValueError: If there is none.
    """
    for method in METHODS.values():
        if method.config.model_type == model_type:
            return method
    raise ValueError(
        f"`model_type` must be one of {[method.config.model_type for method in METHODS.values()]}, got {model_type!r}."
    )


def default_model(name: str) -> str:
    """Folder of an embedded model, for `pipeline(task, model=...)` and `from_pretrained`.

    Args:
        name: A task, for its default model; or an embedded model's own name.

    Raises:
        ValueError: If it is neither a task with an embedded model nor such a model.
    """
    package = Path(__file__).parent
    defaults = {task.name: task.default_model for task in TASKS.values() if task.default_model is not None}
    folders = {f"assets/{path.parent.name}" for path in package.glob("assets/*/config.json")}
    folder = defaults.get(name, f"assets/{name}")
    if folder not in folders:
        raise ValueError(
            f"`name` must be a task with an embedded model, one of {sorted(defaults)}, or such a model, one of "
            f"{sorted(Path(folder).name for folder in folders)}, got {name!r}."
        )
    return str(package / folder)


def register():
    """Register every method and task with transformers; `import hvmodels` calls it."""
    for method in METHODS.values():
        AutoConfig.register(method.config.model_type, method.config)
        AutoModel.register(method.config, method.model)
        for auto_class, head in method.heads.items():
            getattr(transformers, auto_class).register(method.config, head)
        classifier = method.heads.get("AutoModelForImageClassification")
        if classifier is not None:
            # transformers' pipeline looks here, and calls models that it does not find unsupported, though they work.
            MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[method.config.model_type] = classifier.__name__
        if method.feature_extractor is not None:
            transformers.AutoFeatureExtractor.register(method.config, method.feature_extractor)
        if method.image_processor is not None:
            # transformers 5.17 has no AutoImageProcessor without torchvision; the class itself works there.
            with suppress(ImportError):
                transformers.AutoImageProcessor.register(
                    method.config, image_processor_classes={"pil": method.image_processor}
                )
        # A repository's own copy of the pipeline is for where this package is missing. If its entry were seen here,
        # `pipeline` would ask to trust it instead of taking the registered one.
        method.config.custom_pipelines = property(lambda config: {}, lambda config, value: None)
    for task in TASKS.values():
        default = task.default_model and {"model": (default_model(task.name), "main")}
        PIPELINE_REGISTRY.register_pipeline(
            task.name,
            pipeline_class=task.pipeline,
            pt_model=getattr(transformers, task.auto_model),
            default=default,
            type=task.input_type,
        )
        # A tag that is a task of transformers' own stays that task.
        if task.hub_tag != task.name and task.hub_tag not in PIPELINE_REGISTRY.supported_tasks:
            PIPELINE_REGISTRY.task_aliases[task.hub_tag] = task.name


__all__ = ["METHODS", "TASKS", "Method", "Task", "default_model", "method_of"]
