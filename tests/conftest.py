"""Settings of the whole test run: offline, one thread, one seed."""

import os


# Before the first import of huggingface_hub, which reads them once.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers


pytest.register_assert_rewrite("tests.modeling_checks")
torch.set_num_threads(1)

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    np.random.seed(0)  # for code under test that may still use the global state


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Small reference values that are part of the repository."""
    return REPOSITORY / "tests" / "fixtures"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Public data and larger reference values beside the repository, which need not be there."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder `shared` with public data sets beside the repository")
    return folder


@pytest.fixture(scope="session")
def auto_image_processor():
    """Skips where transformers itself refuses `AutoImageProcessor`: version 5.17 without torchvision."""
    try:
        transformers.AutoImageProcessor.from_pretrained  # noqa: B018
    except ImportError:
        pytest.skip("this version of transformers has no AutoImageProcessor without torchvision")
