"""Where values of the originals are: in `tests/fixtures`, the largest beside the repository, in `shared/parity`."""

from pathlib import Path
from typing import Any

import pytest


TESTS = Path(__file__).parent


def reference_folder(method: str, case: str) -> Path:
    """Folder of a case, which need not be there."""
    folder = TESTS / "fixtures" / method / case
    return folder if folder.is_dir() else TESTS.parents[1] / "shared" / "parity" / method / case


def needs_reference(method: str, case: str) -> pytest.MarkDecorator:
    """Skip a test where the case is not there."""
    return pytest.mark.skipif(
        not reference_folder(method, case).is_dir(),
        reason=f"needs `shared/parity/{method}/{case}` beside the repository",
    )


def reference_case(method: str, case: str, *values: Any) -> Any:
    """Parameters of a test: the case's name and further values; skipped where it is not there."""
    return pytest.param(case, *values, marks=needs_reference(method, case))
