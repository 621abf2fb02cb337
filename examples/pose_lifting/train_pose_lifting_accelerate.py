"""Train a model that lifts 2D poses to 3D in a plain loop with Accelerate: one process, or `accelerate launch`."""

from pose_lifting_recipe import PoseLiftingRecipe
from recipe_training import run_accelerate


def main(arguments: list[str] | None = None):
    run_accelerate(PoseLiftingRecipe, __doc__, arguments)


if __name__ == "__main__":
    main()
