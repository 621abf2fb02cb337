"""Train AIB with the Trainer of transformers: one process, or `accelerate launch`."""

from pathlib import Path

import torch
from accelerate import PartialState
from aib_recipe import AIBRecipe
from pose_recipe import claim_output_dir, parse_arguments
from train_pose_estimation import StepSeed, last_checkpoint
from train_top_down import TopDownTrainer
from transformers import TrainingArguments

from hvmodels.datasets.keypoints import EpochCallback


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, AIBRecipe)
    output_dir = Path(options.output_dir)
    data = recipe.load_data()
    steps = recipe.steps_per_epoch(data)
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=recipe.epochs,
        max_grad_norm=0,
        use_cpu=not torch.accelerator.is_available(),  # without it, bfloat16 needs a GPU
        bf16=recipe.mixed_precision == "bf16",
        fp16=recipe.mixed_precision == "fp16",
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every * steps,
        save_strategy="steps",
        save_steps=recipe.evaluate_every * steps,
        save_total_limit=1,
        logging_steps=recipe.log_every,
        remove_unused_columns=False,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        disable_tqdm=True,
        report_to="none",
        seed=recipe.seed,
    )
    claim_output_dir(recipe, output_dir, options.resume)

    model = recipe.build_model(data)
    model.to(args.device)
    loader = recipe.training_loader(data, args.world_size, args.process_index)
    optimizer = recipe.make_optimizer(model)
    average = recipe.make_average()
    run = recipe.make_run(data, output_dir)
    trainer = TopDownTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.train,  # `LastWeightsRun` knows what to evaluate on
        optimizers=(optimizer, recipe.make_scheduler(optimizer, steps)),
        callbacks=[StepSeed(), EpochCallback(data.train, loader.batch_sampler), *([average] if average else [])],
        loader=loader,
        recipe=recipe,
        run=run,
        average=average,
    )
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is not None:
        trainer.steps_summed = int(checkpoint.name.split("-")[1])
        run.restore(trainer.steps_summed // steps)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.steps_summed < trainer.state.global_step:  # the last epochs, after the last evaluation
        trainer.evaluate()


if __name__ == "__main__":
    main()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # its threads could abort a process at its exit
