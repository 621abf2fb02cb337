"""Convert every checkpoint that the LTSF-Linear repository has written.

    python conversion/convert_ltsf_linear.py LTSF-Linear/checkpoints converted

Its training script names each folder by the run's settings,
`{model_id}_{model}_{data}_ft{features}_sl{look-back}_ll{..}_pl{horizon}_...`; model and features are read from there.
Folders of other models are skipped.
"""

import argparse
import re
from pathlib import Path

from hvmodels.conversion import convert_checkpoint


SETTING = re.compile(r"(?P<id>.+)_(?P<model>[DN]?Linear)_(?P<data>.+)_ft(?P<features>M|S|MS)_sl\d+_ll\d+_pl\d+_.*")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", type=Path, help="the original's folder `checkpoints`")
    parser.add_argument("output", type=Path, help="folder to write one model folder a setting into")
    parser.add_argument(
        "--channels", type=int, default=7, help="enc_in of the runs; a shared model works for any number"
    )
    args = parser.parse_args()
    found = sorted(args.checkpoints.glob("*/checkpoint.pth"))
    if not found:
        parser.error(f"{args.checkpoints} must hold <setting>/checkpoint.pth files, and holds none")
    for checkpoint in found:
        setting = SETTING.fullmatch(checkpoint.parent.name)
        if setting is None:
            print(f"skipped {checkpoint.parent.name}: no run of this family")
            continue
        features = setting["features"]
        options = {"model": setting["model"], "features": features, "enc_in": 1 if features == "S" else args.channels}
        print(convert_checkpoint("ltsf-linear", checkpoint, args.output / checkpoint.parent.name, options))


if __name__ == "__main__":
    main()
