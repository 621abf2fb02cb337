"""Train a network that names the actions of skeletons in a plain loop with Accelerate: one process, or `accelerate launch`."""

from action_recipe import ActionRecipe
from recipe_training import run_accelerate


def main(arguments: list[str] | None = None):
    run_accelerate(ActionRecipe, __doc__, arguments)


if __name__ == "__main__":
    main()
