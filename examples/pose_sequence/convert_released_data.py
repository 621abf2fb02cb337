"""Copy a folder of released archives into the layout without pickles, which is read faster and by NumPy alone.

python convert_released_data.py data/poses data/poses_safe
"""

import argparse
from pathlib import Path

from hvmodels.datasets.sequence_archives import convert_sequence_archive


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    paths = sorted(options.source.rglob("*.npz"))
    if not paths:
        raise ValueError(f"`source` must be a folder with .npz files, and {str(options.source)!r} has none.")
    for path in paths:
        target = options.target / path.relative_to(options.source)
        target.parent.mkdir(parents=True, exist_ok=True)
        convert_sequence_archive(path, target)
        print(target)


if __name__ == "__main__":
    main()
