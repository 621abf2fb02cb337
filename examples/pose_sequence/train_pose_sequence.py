"""Train SmoothNet or DeciWatch with the Trainer of transformers: one process, or `accelerate launch`."""

from accelerate import PartialState
from pose_sequence_recipe import PoseSequenceRecipe
from recipe_training import run_trainer


def main(arguments: list[str] | None = None):
    run_trainer(PoseSequenceRecipe, __doc__, arguments)


if __name__ == "__main__":
    main()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # its threads could abort a process at its exit
