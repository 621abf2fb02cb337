"""The command `hvmodels`: list, info, predict, convert, evaluate, push."""

import json
import sys
import time
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, pipeline
from transformers.utils import logging

from .methods import METHODS, TASKS, default_model, method_of
from .pipelines.pipeline_pose_estimation import DETECTOR_NMS_THRESHOLD, IMAGE_SUFFIXES
from .video import VIDEO_SUFFIXES


app = typer.Typer(
    help="Human vision and forecasting research methods as Hugging Face models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
EXAMPLE_SERIES = "assets/air_passengers.csv"
EXAMPLE_GARMENT = "assets/drawn_t_shirt.jpg"
EXAMPLE_PICTURE = "grace_hopper.jpg"
DEFAULT_COVERAGE = 0.9
MAX_TRACKS_SHOWN = 20
EXAMPLE_BOX = (-200, 0, 912, 1900)  # of the whole person, most of whom is below the edge of the portrait
POSE_SUFFIXES = {".json", ".npz"}
POSE_OPTIONS = {
    "threshold",
    "top_k",
    "nms_threshold",
    "batch_size",
    "boxes",
    "detector",
    "detector_threshold",
    "keypoint_threshold",
    "flip_test",
}
VIDEO_OPTIONS = {
    "interval",
    "poses",
    "smooth",
    "recover",
    "max_gap",
    "frame_rate",
    "lift",
    "actions",
    "output_3d",
    "output_page",
    "layout",
    "trails",
}
PREDICT_OPTIONS = {
    "attention-image-classification": {"top_k", "num_samples", "seed"},
    "time-series-forecasting": {"prediction_length", "interval", "period", "missing_values"},
    "pose-estimation": POSE_OPTIONS,
    "video-pose-estimation": POSE_OPTIONS | VIDEO_OPTIONS,
    "pose-lifting": {"batch_size", "flip_test", "frame_rate", "image_size"},
    "pose-refinement": {"batch_size", "frame_rate"},
}


@app.command("list")
def list_methods():
    """List the methods of the package."""
    width = max(map(len, METHODS))
    for method in METHODS.values():
        typer.echo(f"{method.name:<{width}}  {method.title}  [{method.task or 'no pipeline'}]  arXiv {method.paper}")


@app.command()
def info(
    target: Annotated[str, typer.Argument(help="A method's name, a model folder, or a repository on the Hub.")],
):
    """Describe a method, or a saved model."""
    if target in METHODS:
        method = METHODS[target]
        lines = {
            "title": method.title,
            "paper": f"https://arxiv.org/abs/{method.paper}",
            "original code": f"https://github.com/{method.original}",
            "pipeline": method.task,
            **{auto_class: cls.__name__ for auto_class, cls in method.auto_classes.items()},
        }
    else:
        config = _load_config(target)
        lines = {"method": method_of(config.model_type).name, **config.to_diff_dict()}
    for name, value in lines.items():
        typer.echo(f"{name}: {value}")


@app.command()
def predict(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Argument(
            help="CSV file of a series with one row a time step, an embedded example if absent; "
            "or, for poses and classes, an image, a folder of images, or a URL, a portrait from matplotlib if absent; "
            "or a video, with --task video-pose-estimation also a folder of frames or the number of a camera; "
            "or a file of tracked poses to refine, or with --task pose-lifting to lift to 3D."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model folder or repository on the Hub; the embedded default if absent.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="CSV file for the forecast; JSON file for poses and classes; .npz or .json file for poses of a video, refined or lifted "
            "ones."
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Picture file (png, pdf, svg) of history and forecast; for poses the picture with them, "
            "or a folder for such pictures; for classes likewise, with the attention map; for a video the video (mp4) with "
            "them; for lifted poses a picture of some, or a page (html) in which they can be turned."
        ),
    ] = None,
    prediction_length: Annotated[int | None, typer.Option(help="Steps to forecast.")] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            help="Coverage of prediction intervals, 0.9 if absent; videos: look for persons in every so many frames only."
        ),
    ] = None,
    period: Annotated[int | None, typer.Option(help="Steps a season; found from the dates if absent.")] = None,
    missing_values: Annotated[str | None, typer.Option(help="raise, forward_fill or interpolate.")] = None,
    task: Annotated[str | None, typer.Option(help="Pipeline task; that of the model, or of the kind of file.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Poses: least score of a person; 0.3 if absent, 0.4 for those followed in a video."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Poses: persons an image at most. Classes: labels at most, 5 if absent.")
    ] = None,
    nms_threshold: Annotated[
        float | None, typer.Option(help="Poses: drop persons that are more similar (OKS) to one of higher score.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Poses: images at a time; crops of persons for top-down models.")
    ] = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            help="Poses by top-down models: a person's box as x,y,width,height in pixels, repeated for more persons; or a "
            "JSON file of a list of such boxes, for a folder of an object of such lists by file name. "
            "Without boxes and detector the whole picture is one box. Videos: boxes of the first frame; without, one "
            "person is searched for."
        ),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="Poses by top-down models: folder or repository of the object-detection model for the boxes."
        ),
    ] = None,
    detector_threshold: Annotated[
        float | None, typer.Option(help="Poses: least score of the detector's boxes; 0.3 if absent.")
    ] = None,
    keypoint_threshold: Annotated[
        float | None,
        typer.Option(
            help="Poses: draw only keypoints of a higher confidence, or score if they have none; 0 if absent."
        ),
    ] = None,
    flip_test: Annotated[
        bool | None,
        typer.Option(
            help="Poses by top-down models, and lifting: average with the mirror image, in twice the time.",
            show_default=False,
        ),
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(
            help="Videos: file or folder of poses that were found already, by this package or another program."
        ),
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(
            help="Videos: one-euro, savitzky-golay, gaussian, a SmoothNet's folder or repository, or none; the embedded "
            "SmoothNet if absent and every frame is looked at."
        ),
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(
            help="Videos with --interval: a DeciWatch's folder or repository, or none for straight lines; the embedded one "
            "if absent."
        ),
    ] = None,
    max_gap: Annotated[
        int | None, typer.Option(help="Videos: frames that a person may be out of sight for; a second if absent.")
    ] = None,
    frame_rate: Annotated[
        float | None,
        typer.Option(help="Videos: resample to so many frames a second. Poses to refine or lift: what they have."),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(help="Poses to lift: width and height of the picture, 1920x1080, if the file lacks them."),
    ] = None,
    lift: Annotated[
        str | None,
        typer.Option(
            help="Videos: lift the poses to 3D by a lifting model's folder or repository, or by the embedded one: default."
        ),
    ] = None,
    actions: Annotated[
        str | None,
        typer.Option(
            help="Videos: tell what persons do by an action model's folder or repository, or by the embedded one: default."
        ),
    ] = None,
    output_3d: Annotated[
        Path | None, typer.Option(help="Videos with --lift: .npz or .json file for the poses in space.")
    ] = None,
    output_page: Annotated[
        Path | None, typer.Option(help="Videos with --lift: page (.html) in which the persons can be turned.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Videos: overlay or side_by_side, of the drawn video.")] = None,
    trails: Annotated[int | None, typer.Option(help="Videos: frames for which persons leave a trail.")] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Classes: attention maps to draw for a picture; as the model's configuration says."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Classes: of the maps that are drawn, 0 if absent.")] = None,
):
    """Forecast a series, in its own units and dates; find the persons in images and videos; refine or lift their poses."""
    task = _task_of(task, model, data)
    common = ("data", "model", "output", "plot", "task")
    options = {
        name: value for name, value in context.params.items() if name not in common and value not in (None, [], ())
    }
    _refuse(task, {name: value for name, value in options.items() if name not in PREDICT_OPTIONS[task]})
    predict_task = {
        "attention-image-classification": _classify_images,
        "time-series-forecasting": _forecast,
        "pose-estimation": _predict_poses,
        "video-pose-estimation": _predict_video,
        "pose-lifting": _lift_poses,
        "pose-refinement": _refine_poses,
    }[task]
    predict_task(data, model or default_model(task), output, plot, **options)


def _forecast(data: str | None, model: str, output: Path | None, plot: Path | None, **options: Any):
    if data is None:
        data = files("hvmodels") / EXAMPLE_SERIES
        options.setdefault("prediction_length", 24)
        typer.echo("Embedded example: monthly airline passengers 1949-1960, in thousands (Box and Jenkins, series G).")
    forecaster = pipeline("time-series-forecasting", model=model)
    try:
        forecast = forecaster(str(data), **{"interval": DEFAULT_COVERAGE, **options})
    except ValueError as error:
        if (
            "interval" not in str(error) or "interval" in options
        ):  # the default coverage is a wish, a given one a demand
            raise
        typer.echo(f"No intervals: {error}")
        forecast = forecaster(str(data), **options)
    typer.echo(forecast.to_string(index=False, max_rows=24, float_format=lambda value: f"{value:.4g}"))
    typer.echo(describe_report(forecast.attrs["report"]))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        forecast.to_csv(output, index=False)
        typer.echo(f"Wrote {output}")
    if plot is not None:
        from .visualization.forecasting import plot_forecast

        plot.parent.mkdir(parents=True, exist_ok=True)
        series = forecaster.feature_extractor.read(str(data), options.get("missing_values"))
        plot_forecast(series, forecast).savefig(plot, dpi=120)
        typer.echo(f"Wrote {plot}")


def describe_report(report: dict[str, Any]) -> str:
    """One sentence on how a forecast came about."""
    if report["winner"] == "pretrained":
        return "Forecast by the pretrained model."
    names = {"linear": "the linear model fitted to this series", "seasonal_naive": "the seasonal-naive forecast"}
    return (
        f"Forecast by {names[report['winner']]}: over {report['backtest_windows']} backtest windows the mean absolute "
        f"error, in deviations of the series, was {report['linear_mae']:.3f} (linear) and "
        f"{report['seasonal_naive_mae']:.3f} (seasonal-naive, period {report['period']})."
    )


def _predict_poses(
    data: str | None,
    model: str,
    output: Path | None,
    plot: Path | None,
    keypoint_threshold: float = 0.0,
    **options: Any,
):
    from .pipelines.pipeline_pose_estimation import read_image
    from .visualization.poses import draw_poses

    is_example = data is None
    data = _read_example() if is_example else data
    is_folder, sources, names, targets = _pictures(data, plot)
    estimator = pipeline("pose-estimation", model=model)
    if "boxes" in options:
        options["boxes"] = _read_boxes(options["boxes"], names, is_folder)
    elif estimator.is_top_down and is_example and "detector" not in options:
        options["boxes"] = [[EXAMPLE_BOX]]
        typer.echo(f"The box of the whole person is x, y, width, height = {EXAMPLE_BOX}, beyond the picture's edge.")
    elif estimator.is_top_down and "detector" not in options:
        typer.echo("The whole picture is the box of one person; --boxes or --detector look closer.")
    found = {}
    results = estimator(iter(sources), **options)
    for source, name, target, persons in zip(sources, names, targets, results, strict=True):
        found[name] = persons
        scores = ", ".join(f"{person['score']:.2f}" for person in persons)
        typer.echo(f"{name}: {len(persons)} {'person' if len(persons) == 1 else 'persons'}{scores and f' ({scores})'}")
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            drawn = draw_poses(
                read_image(source), persons, estimator.keypoint_links, keypoint_threshold=keypoint_threshold
            )
            drawn.save(target, quality=95)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"Wrote {output}")
    if plot is not None:
        typer.echo(f"Wrote {plot}")


def _classify_images(data: str | None, model: str, output: Path | None, plot: Path | None, **options: Any):
    from .pipelines.pipeline_pose_estimation import read_image

    if data is None:
        typer.echo("Example picture: a T-shirt, drawn by a program.")
        data = str(files("hvmodels") / EXAMPLE_GARMENT)
    _, sources, names, targets = _pictures(data, plot)
    classifier = pipeline("attention-image-classification", model=model)
    found = {}
    for source, name, target in zip(sources, names, targets, strict=True):
        result = classifier(read_image(source), attention=target is not None, **options)
        found[name] = result if target is None else result["predictions"]
        entries = (
            f"{entry['label']} {entry['score']:.2f}" + (f" ± {entry['score_std']:.2f}" if "score_std" in entry else "")
            for entry in found[name]
        )
        typer.echo(f"{name}: {', '.join(entries)}")
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            result["overlay"].save(target, quality=95)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"Wrote {output}")
    if plot is not None:
        typer.echo(f"Wrote {plot}")


def _pictures(data: str, plot: Path | None) -> tuple[bool, list, list[str], list[Path | None]]:
    """Whether this is a folder; its pictures, or the one; their names; and files to draw each to, if any."""
    from .pipelines.pipeline_pose_estimation import image_files

    is_folder = "://" not in data and Path(data).is_dir()
    sources = image_files(data) if is_folder else [data]
    names = [Path(urlsplit(str(source)).path).name for source in sources]
    if plot is None:
        return is_folder, sources, names, [None] * len(names)
    if plot.is_dir() or plot.suffix == "":
        return is_folder, sources, names, [plot / name for name in names]
    if is_folder:
        raise ValueError(f"`--plot` must be a folder for the pictures of a folder, got {str(plot)!r}.")
    return is_folder, sources, names, [plot]


def _predict_video(data: str | None, model: str, output: Path | None, plot: Path | None, **options: Any):
    from .datasets.pose_formats import read_poses

    if data is None:
        raise ValueError("video-pose-estimation needs a video: a file, a folder of frames, or the number of a camera.")
    for name in ("smooth", "recover"):
        if options.get(name) == "none":
            options[name] = None
    for name in ("lift", "actions"):
        if options.get(name) == "default":
            options[name] = True
    if "interval" in options:
        if not options["interval"].is_integer():
            raise ValueError(f"`--interval` must be a number of frames for a video, got {options['interval']}.")
        options["interval"] = int(options["interval"])
    if "boxes" in options:
        (options["boxes"],) = _read_boxes(options["boxes"], [data], is_folder=False)
    if "poses" in options:
        options["poses"] = read_poses(options["poses"])
    estimator = pipeline("video-pose-estimation", model=model)
    if estimator.is_top_down and not {"boxes", "detector", "poses"} & set(options):
        typer.echo("One person is searched for, where something moves; --boxes or --detector tell where persons are.")
    start = time.perf_counter()
    video = int(data) if data.isdecimal() and not Path(data).exists() else data
    sequence = estimator(video, output=output, output_video=plot, **options)
    width, height = sequence.image_size
    typer.echo(
        f"{data}: {sequence.num_frames} frames of {width} x {height} pixels, {sequence.frame_rate:.4g} a second; persons were "
        f"looked for in {sequence.num_detected_frames}; {time.perf_counter() - start:.1f} s"
    )
    _describe_tracks(sequence)
    for action in sequence.actions or ():
        typer.echo(
            f"track {action['track_id']}: frames {action['start_frame']} to {action['end_frame'] - 1} {action['label']}, "
            f"score {action['score']:.2f}"
        )
    for path in (output, plot, options.get("output_3d"), options.get("output_page")):
        if path is not None:
            typer.echo(f"Wrote {path}")


def _refine_poses(
    data: str | None,
    model: str,
    output: Path | None,
    plot: Path | None,
    batch_size: int | None = None,
    frame_rate: float | None = None,
):
    if data is None:
        raise ValueError("pose-refinement needs a file of tracked poses, such as the .npz of video-pose-estimation.")
    _refuse("pose-refinement", {"plot": plot})
    options = {"batch_size": batch_size, "frame_rate": frame_rate}
    refiner = pipeline("pose-refinement", model=model)
    sequence = refiner(data, **{name: value for name, value in options.items() if value is not None})
    typer.echo(f"{data}: {sequence.num_frames} frames")
    _describe_tracks(sequence)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        sequence.save(output)
        typer.echo(f"Wrote {output}")


def _lift_poses(
    data: str | None, model: str, output: Path | None, plot: Path | None, image_size: str | None = None, **options: Any
):
    if data is None:
        raise ValueError("pose-lifting needs a file of 2D poses, such as the .npz of video-pose-estimation.")
    if image_size is not None:
        sides = image_size.lower().split("x")
        if len(sides) != 2 or not all(side.isdecimal() for side in sides):
            raise ValueError(f"`--image-size` must be width and height such as 1920x1080, got {image_size!r}.")
        options["image_size"] = tuple(map(int, sides))
    sequence = pipeline("pose-lifting", model=model)(data, **options)
    typer.echo(
        f"{data}: {sequence.num_frames} frames, {len(sequence.keypoint_names)} joints in metres from the pelvis"
    )
    _describe_tracks(sequence)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        sequence.save(output)
        typer.echo(f"Wrote {output}")
    if plot is not None:
        from .visualization.pose_3d import plot_poses_3d, write_pose_page

        plot.parent.mkdir(parents=True, exist_ok=True)
        if plot.suffix.lower() in (".html", ".htm"):
            write_pose_page(plot, sequence, title=Path(data).name)
        else:
            plot_poses_3d(sequence).savefig(plot, dpi=120)
        typer.echo(f"Wrote {plot}")


def _describe_tracks(sequence: Any):
    """A line a track, the longest twenty."""
    longest = sorted(sequence.tracks, key=len, reverse=True)[:MAX_TRACKS_SHOWN]
    for track in sorted(longest, key=lambda track: track.start):
        scores = [] if track.person_scores is None else track.person_scores[track.person_scores > 0]
        mean = f", score {scores.mean():.2f}" if len(scores) else ""
        typer.echo(f"track {track.track_id}: frames {track.start} to {track.end - 1}{mean}")
    if len(sequence.tracks) > len(longest):
        typer.echo(f"and {len(sequence.tracks) - len(longest)} shorter tracks")


def _read_example() -> str:
    typer.echo("Example picture: portrait of Grace Hopper (US Navy, public domain), from matplotlib's sample data.")
    return example_picture()


def example_picture() -> str:
    """Path of a photograph that is on every machine with matplotlib.

    Raises:
        ImportError: Without matplotlib.
    """
    try:
        from matplotlib.cbook import get_sample_data
    except ImportError as error:
        raise ImportError(
            "The example picture is part of matplotlib: `pip install hvmodels[viz]`, or name a picture."
        ) from error
    return str(get_sample_data(EXAMPLE_PICTURE, asfileobj=False))


def _read_boxes(given: list[str], names: list[str], is_folder: bool) -> list[list]:
    """The boxes of each picture, as `--boxes` has them."""
    if any(value.lower().endswith(".json") for value in given):
        if len(given) > 1:
            raise ValueError(f"`--boxes` must be one JSON file, or boxes; got {given}.")
        boxes = json.loads(Path(given[0]).read_text(encoding="utf-8"))
        if isinstance(boxes, dict) or is_folder:
            missing = [name for name in names if not isinstance(boxes, dict) or name not in boxes]
            if missing:
                raise ValueError(
                    "`--boxes` of a folder must be a JSON object of lists of boxes by file name ([] for nobody); "
                    f"{given[0]!r} has none for {missing[0]!r}."
                )
            return [boxes[name] for name in names]
        return [boxes]
    if is_folder:
        raise ValueError("`--boxes` of a folder must be a JSON file, an object of lists of boxes by file name.")
    boxes = []
    for value in given:
        numbers = value.split(",")
        with suppress(ValueError):
            numbers = [float(number) for number in numbers]
        if len(numbers) != 4 or isinstance(numbers[0], str):
            raise ValueError(f"`--boxes` must be x,y,width,height in pixels, or a JSON file, got {value!r}.")
        boxes.append(numbers)
    return [boxes]


@app.command()
def convert(
    method: Annotated[str, typer.Argument(help="Method name, see `hvmodels list`.")],
    checkpoint: Annotated[Path, typer.Argument(help="Weights of the original code (.pth, .pt, .ckpt, .safetensors).")],
    output_dir: Annotated[Path, typer.Argument(help="Folder to write, absent or empty.")],
    original_config: Annotated[
        Path | None, typer.Option(help="JSON file with the original's own option names; sizes come from the tensors.")
    ] = None,
):
    """Convert a checkpoint of an original repository into a folder for `from_pretrained`."""
    from .conversion import convert_checkpoint

    typer.echo(f"Wrote {convert_checkpoint(method, checkpoint, output_dir, original_config)}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder or repository on the Hub.")],
    data: Annotated[
        Path,
        typer.Argument(
            help="CSV file, where published data sets are known by their file name; "
            "or, for poses, a JSON file of COCO keypoint annotations."
        ),
    ],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    features: Annotated[str, typer.Option(help="M, S or MS, as in the papers.")] = "M",
    target: Annotated[str | None, typer.Option(help="Column for features S; the last if absent.")] = None,
    drop_last: Annotated[
        int | None,
        typer.Option(min=1, help="Leave out the windows after the last full batch of this size, as the papers did."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Poses: folder of the annotated images.")] = None,
    style: Annotated[
        str | None, typer.Option(help="Poses: coco or crowdpose; crowdpose if the images have a crowdIndex.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Poses: images at a time; crops of persons for top-down models.")
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="Poses by top-down models: JSON file of a detector's boxes in COCO's format for results "
            "(image_id, bbox, score); the annotated boxes if absent."
        ),
    ] = None,
    flip_test: Annotated[
        bool | None,
        typer.Option(
            help="Poses by top-down models: average with the mirrored crops, as the papers did; by default where possible.",
            show_default=False,
        ),
    ] = None,
):
    """Print the paper's metrics of a model on a data set.

    Forecasts are measured in units of the training rows' deviation, poses by COCO's or CrowdPose's keypoint AP.
    """
    pose_options = {"detections": detections, "flip_test": flip_test}
    if _task_of(None, model, str(images or data)) == "pose-estimation":
        _evaluate_poses(model, data, images, style, batch_size, **pose_options)
        return
    _refuse("time-series-forecasting", {"images": images, "style": style, **pose_options})
    from .datasets.forecasting import BENCHMARKS, LongTermForecastingData
    from .hub import load_folder
    from .metrics.forecasting import evaluate_forecaster

    if split not in ("train", "validation", "test"):
        raise ValueError(f"`split` must be train, validation or test, got {split!r}.")
    network, _ = load_folder(model)
    config = network.config
    channel_indices = getattr(config, "prediction_channel_indices", None)
    if features == "MS" and channel_indices is None:
        raise ValueError(
            "`features` MS needs a model with `prediction_channel_indices`; this one predicts every channel."
        )
    make = LongTermForecastingData.from_benchmark if data.stem in BENCHMARKS else LongTermForecastingData
    windows = getattr(
        make(data, config.context_length, config.prediction_length, features=features, target=target), split
    )
    if windows is None:
        raise ValueError(f"`split` = {split!r} has no rows in {str(data)!r}.")
    metrics = evaluate_forecaster(
        lambda past_values: network(past_values).prediction_outputs,
        windows,
        channel_indices=channel_indices,
        drop_last_batch_size=drop_last,
    )
    typer.echo(json.dumps(metrics, indent=2))


def _evaluate_poses(
    model: str,
    data: Path,
    images: Path | None,
    style: str | None,
    batch_size: int | None,
    detections: Path | None,
    flip_test: bool | None,
):
    from .metrics.keypoints import KeypointEvaluator, evaluate_pose_estimator, read_detections

    if images is None:
        raise ValueError("pose-estimation needs `--images`, the folder of the annotated images.")
    annotations = json.loads(data.read_text(encoding="utf-8"))
    if style is None:
        has_crowd_index = any("crowdIndex" in image for image in annotations.get("images", ()))
        style = "crowdpose" if has_crowd_index else "coco"
    estimator = pipeline("pose-estimation", model=model, batch_size=batch_size)
    evaluator = KeypointEvaluator(annotations, _evaluation_sigmas(estimator, annotations), style)
    if not estimator.is_top_down:
        _refuse(f"{type(estimator.model).__name__}, which finds the persons itself", {"detections": detections})
        options = {} if flip_test is None else {"flip_test": flip_test}
        metrics = evaluate_pose_estimator(estimator, evaluator, images, **options)
    else:
        options = {"flip_test": estimator.supports_flip_test if flip_test is None else flip_test}
        if detections is None:
            boxes = {image_id: evaluator.person_boxes(image_id) for image_id in evaluator.images}
        else:
            boxes = read_detections(detections, evaluator)
            if estimator.keypoint_sigmas is not None:
                options["nms_threshold"] = DETECTOR_NMS_THRESHOLD
        source = "annotated boxes" if detections is None else f"boxes of {detections}"
        flipped = "with" if options["flip_test"] else "without"
        typer.echo(f"{sum(map(len, boxes.values()))} {source}, {flipped} flip test", err=True)
        metrics = evaluate_pose_estimator(estimator, evaluator, images, boxes, **options)
    typer.echo(json.dumps(metrics, indent=2))


def _evaluation_sigmas(estimator: Any, annotations: dict) -> list[float] | None:
    """The model's own if its keypoints are those of the annotations; None, for those of the style, if it has more."""
    sigmas, names = getattr(estimator.model.config, "keypoint_sigmas", None), estimator.keypoint_names
    annotated = {len(category.get("keypoints") or ()) for category in annotations.get("categories", ())} - {0}
    return None if annotated and len(names or sigmas or ()) not in annotated else sigmas


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a saved model and its processor.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, `user/name`.")],
    card: Annotated[Path | None, typer.Option(help="Model card to publish as README.md.")] = None,
    private: Annotated[bool, typer.Option(help="Make a new repository private.")] = False,
    tag: Annotated[str | None, typer.Option(help="Tag for the commit, e.g. v1.0.")] = None,
):
    """Publish weights, configuration, processor, card and code in one commit."""
    from .hub import load_folder, publish

    model, processor = load_folder(folder)
    typer.echo(publish(model, processor, repo_id, card=card, private=private, tag=tag))


def _task_of(task: str | None, model: str | None, data: str | None) -> str:
    """The task that is asked for, else the model's, else what the kind of input suggests."""
    if task is not None:
        names = {name: entry.name for entry in TASKS.values() for name in (entry.name, entry.hub_tag)}
        if task not in names:
            raise ValueError(f"`--task` must be one of {sorted(names)}, got {task!r}.")
        return names[task]
    if model is not None:
        with suppress(OSError, ValueError, KeyError):  # another package's model, or none: the pipeline will tell
            config = AutoConfig.from_pretrained(model)
            if any(name.endswith("ForImageClassification") for name in config.architectures or ()):
                task = "attention-image-classification"
            task = method_of(config.model_type).task or task
    suffix = "" if data is None else Path(urlsplit(data).path).suffix.lower()
    if suffix in VIDEO_SUFFIXES and task in (None, "pose-estimation"):
        return "video-pose-estimation"
    if task is None and data is not None:
        if suffix in POSE_SUFFIXES:
            return "pose-refinement"
        is_picture = suffix in IMAGE_SUFFIXES or ("://" not in data and Path(data).is_dir())
        task = "pose-estimation" if is_picture else None
    return task or "time-series-forecasting"


def _refuse(task: str, options: dict[str, Any]):
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be used for {task}.")


def _load_config(target: str) -> Any:
    try:
        return AutoConfig.from_pretrained(target)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"`target` must be one of {sorted(METHODS)}, a model folder or a repository on the Hub; "
            f"{target!r} is none: {str(error).splitlines()[0]}"
        ) from error


def main():
    """Entry point: errors that a user can mend are one line, not a traceback."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, StrictDataclassError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)


__all__ = ["app", "describe_report", "main"]
