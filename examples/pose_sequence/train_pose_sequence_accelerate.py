"""Train SmoothNet or DeciWatch in a plain loop with Accelerate: one process, or `accelerate launch`."""

from pose_sequence_recipe import PoseSequenceRecipe
from recipe_training import run_accelerate


def main(arguments: list[str] | None = None):
    run_accelerate(PoseSequenceRecipe, __doc__, arguments)


if __name__ == "__main__":
    main()
