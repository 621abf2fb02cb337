"""Repository folders and the Hugging Face Hub: export, load again, publish.

An exported folder loads through the Auto classes and `pipeline` where hvmodels is imported, and with
`trust_remote_code=True` where it is not installed: it carries the code of its method, flat, and names it in `auto_map`
and `custom_pipelines`.
"""

import ast
import json
import re
import shutil
from collections.abc import Iterable
from importlib.util import find_spec, resolve_name
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from transformers import FeatureExtractionMixin, ImageProcessingMixin, PreTrainedConfig, PreTrainedModel

from .methods import TASKS, Method, method_of


Processor = FeatureExtractionMixin | ImageProcessingMixin


def collect_code(classes: Iterable[type]) -> dict[str, str]:
    """Read the source files of classes and of everything they import relatively, for one flat folder.

    A relative import from another folder, `from ..metrics.x import y`, becomes `from .x import y`.

    Args:
        classes: Classes of one package, each defined in a file.

    Returns:
        File name to source text.

    Raises:
        ValueError: If two different files have the same name, or an import cannot travel: of the package itself
            (`import package.x`, `from package.x import y`), of a folder (`from ..metrics import y`) or of a module as
            a whole (`from . import x`).
    """
    waiting, sources, origins = [cls.__module__ for cls in classes], {}, {}
    while waiting:
        module = waiting.pop()
        path = Path(find_spec(module).origin)
        if origins.setdefault(path.name, path) != path:
            raise ValueError(
                f"Files that travel in one folder need different names, but {origins[path.name]} and {path} share one."
            )
        if path.name not in sources:
            sources[path.name], imported = _flatten_imports(path.read_text(encoding="utf-8"), module)
            waiting += imported
    return sources


def _flatten_imports(source: str, module: str) -> tuple[str, list[str]]:
    """Turn relative imports of a module into imports of siblings: (new source, full names of imported modules)."""
    lines, imported = source.splitlines(keepends=True), []
    own_package, _, _ = module.partition(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            relative = "." * node.level + node.module
            target = resolve_name(relative, module.rpartition(".")[0])
            travels = find_spec(target).submodule_search_locations is None
            imported.append(target)
            flat = f"from .{target.rpartition('.')[2]} import"
            line = node.lineno - 1
            lines[line] = re.sub(rf"from\s+{re.escape(relative)}\s+import\b", flat, lines[line])
        elif isinstance(node, ast.ImportFrom):
            travels = not node.level and node.module.partition(".")[0] != own_package
        elif isinstance(node, ast.Import):
            travels = all(alias.name.partition(".")[0] != own_package for alias in node.names)
        else:
            continue
        if not travels:
            raise ValueError(
                f"{module}, line {node.lineno}: `{ast.unparse(node)}` would fail where the package is not installed; "
                "write `from .file import name`."
            )
    return "".join(lines), imported


def _reference(cls: type) -> str:
    """A class as repositories name it: file and class."""
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


def _update_json(path: Path, **entries):
    values = {**json.loads(path.read_text(encoding="utf-8")), **entries}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _auto_class_names(method: Method) -> tuple[dict[type, str], dict[type, str]]:
    """Names of the Auto classes of a method's models and of its processor, by class."""
    names = {cls: name for name, cls in method.auto_classes.items()}
    models = {cls: name for cls, name in names.items() if issubclass(cls, PreTrainedModel)}
    processors = {cls: name for cls, name in names.items() if issubclass(cls, Processor)}
    return models, processors


def export(
    model: PreTrainedModel, processor: Processor | None, folder: str | PathLike, card: str | PathLike | None = None
):
    """Write a repository folder: weights, configuration, processor, card, and the code to load it anywhere.

    The pipeline is entered in `custom_pipelines` under the Hub's own tag of the task, the one key with which
    `pipeline(model=repo_id, trust_remote_code=True)` finds its task. hvmodels itself does not look at that entry (see
    `register`), so that with it imported nothing asks for trust.

    Args:
        model: Model of any method of hvmodels.
        processor: Feature extractor or image processor of the same method, None if the method has neither.
        folder: Made if needed; files of the same names are replaced.
        card: Model card to copy to `README.md`.

    Raises:
        ValueError: If model and processor do not belong to the same method of hvmodels, or the card is no file.
        OSError: If the folder cannot be written.
    """
    method = method_of(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    models, processors = _auto_class_names(method)
    for name, value, classes in (("model", model, models), ("processor", processor, processors or {type(None): None})):
        if type(value) not in classes:
            expected = " or ".join(cls.__name__ for cls in classes)
            raise ValueError(f"`{name}` must be of hvmodels' class {expected}, got {type(value).__name__}.")
    if card is not None and not Path(card).is_file():
        raise ValueError(f"`card` must be the file of a model card, and {str(card)!r} is none.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if card is not None:
        shutil.copyfile(card, folder / "README.md")

    # The repository of a head loads as its base model too; that of a base model not as a head, which would be random.
    loadable = {"AutoConfig": method.config, "AutoModel": method.model, models[type(model)]: type(model)}
    entries = {"auto_map": {name: _reference(cls) for name, cls in loadable.items()}}
    classes = list(loadable.values())
    task = TASKS.get(method.task)
    if task is not None and task.auto_model in loadable:
        pipeline = {"impl": _reference(task.pipeline), "pt": [task.auto_model], "type": task.input_type}
        entries["custom_pipelines"] = {task.hub_tag: pipeline}
        classes.append(task.pipeline)
    # Entries are written to the files, not registered with the classes: later saves of the user stay plain.
    model.save_pretrained(folder)
    _update_json(folder / "config.json", **entries)
    if processor is not None:
        processor.save_pretrained(folder)
        auto_map = {processors[type(processor)]: _reference(type(processor))}
        _update_json(folder / "preprocessor_config.json", auto_map=auto_map)
        classes.append(type(processor))
    for name, source in collect_code(classes).items():
        (folder / name).write_text(source, encoding="utf-8")


def load_folder(folder: str | PathLike) -> tuple[PreTrainedModel, Processor | None]:
    """Load the model and the processor that `export` or `save_pretrained` wrote, with the head that was saved.

    Args:
        folder: A folder, or the id of a repository on the Hub.

    Raises:
        ValueError: If it holds no complete model of hvmodels.
    """
    try:
        config, _ = PreTrainedConfig.get_config_dict(folder)
        models, processors = _auto_class_names(method_of(config.get("model_type")))
        auto_classes = {cls.__name__: name for cls, name in models.items()}
        architecture = next(iter(config.get("architectures") or []), None)
        if architecture not in auto_classes:
            raise ValueError(f"`architectures` must be one of {list(auto_classes)}, got {architecture!r}.")
        auto_class = getattr(transformers, auto_classes[architecture])
        model, loading = auto_class.from_pretrained(folder, output_loading_info=True)
        if loading["missing_keys"]:
            raise ValueError(f"The weights {sorted(loading['missing_keys'])} are missing.")
        processor = None
        for name in processors.values():
            processor = getattr(transformers, name).from_pretrained(folder)
    except (OSError, ValueError, RuntimeError, StrictDataclassError) as error:
        raise ValueError(f"`folder` must hold a model saved by hvmodels, got {str(folder)!r}: {error}") from error
    return model, processor


def publish(
    model: PreTrainedModel,
    processor: Processor | None,
    repo_id: str,
    card: str | PathLike | None = None,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Export and upload in one commit; the repository is made if needed.

    Args:
        model: Model of any method of hvmodels.
        processor: Its processor, see `export`.
        repo_id: `"namespace/name"`, or `"name"` in the namespace of the token.
        card: Model card to upload as `README.md`; None leaves the one on the Hub.
        private: Whether a new repository is private.
        revision: Branch to commit to, made if needed; None is the main branch.
        tag: New tag for the commit.
        commit_message: Title of the commit.
        token: Token of the Hub; None takes that of `hf auth login` or of the environment.

    Returns:
        URL of the commit.

    Raises:
        ValueError: If the repository's name is not valid, the card is no file, or model and processor do not belong
            together.
        OSError: If the Hub refuses (its own errors, unchanged); a `tag` in use is refused after the upload.
    """
    try:
        validate_repo_id(repo_id or "")  # it takes None for valid
    except HFValidationError as error:
        raise ValueError(
            "`repo_id` must be 'name' or 'namespace/name' of letters, digits, '-', '_' and '.', "
            f"at most 96 characters, got {repo_id!r}: {error}"
        ) from error
    api = HfApi(token=token)
    with TemporaryDirectory() as folder:
        export(model, processor, folder, card)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        message = commit_message or f"Upload {type(model).__name__}"
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, revision=revision, commit_message=message)
    if tag is not None:
        api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return str(commit.commit_url)


__all__ = ["collect_code", "export", "load_folder", "publish"]
