"""Train AIB in a plain loop with Accelerate: one process, or `accelerate launch`."""

from pathlib import Path

from accelerate import Accelerator, DistributedDataParallelKwargs
from aib_recipe import AIBRecipe
from pose_recipe import claim_output_dir, parse_arguments
from train_top_down_accelerate import train


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, AIBRecipe)
    output_dir = Path(options.output_dir)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    model = recipe.build_model(data)
    train(recipe, data, model, accelerator, output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
