"""Train SmoothNet or DeciWatch with the Trainer of transformers: one process, or `accelerate launch`."""

from pose_sequence_recipe import PoseSequenceRecipe
from recipe_training import run_trainer


def main(arguments: list[str] | None = None):
    run_trainer(PoseSequenceRecipe, __doc__, arguments)


if __name__ == "__main__":
    main()
