"""Training of a recipe's model from start to end, by the Trainer of transformers or in a plain loop with Accelerate.

What SmoothNet, DeciWatch, lifting models and action networks have in common: a recipe that loads data, builds the model, its
optimizer, schedule and loader, and says how to evaluate.
"""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from pose_recipe import LastWeightsRun, claim_output_dir, parse_arguments, seed_step
from torch.utils.data import DataLoader, Dataset
from train_pose_estimation import PoseTrainer, StepSeed, last_checkpoint
from transformers import TrainingArguments

from hvmodels.datasets.keypoints import EpochCallback


def parts_of_an_epoch(dataset: Dataset, loader: DataLoader) -> list[Any]:
    """What wants to know the epoch: the order, and the data if it is augmented."""
    return [loader.batch_sampler, *([dataset] if hasattr(dataset, "set_epoch") else [])]


def run_trainer(recipe_class: type, description: str, arguments: list[str] | None = None):
    """Train by the Trainer as the command line says."""
    recipe, options = parse_arguments(description, arguments, recipe_class)
    output_dir = Path(options.output_dir)
    data = recipe.load_data()
    steps = recipe.steps_per_epoch(data)
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=recipe.epochs,
        max_grad_norm=0,
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every * steps,
        save_strategy="steps",
        save_steps=recipe.evaluate_every * steps,
        save_total_limit=1,
        logging_steps=recipe.log_every,
        remove_unused_columns=False,
        label_names=["labels"],
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
    run = recipe.make_run(data, output_dir)
    trainer = PoseTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.train,  # `LastWeightsRun` knows what to evaluate on
        optimizers=(optimizer, recipe.make_scheduler(optimizer, steps)),
        callbacks=[StepSeed(), EpochCallback(*parts_of_an_epoch(data.train, loader))],
        loader=loader,
        run=run,
        average=None,
    )
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is not None:
        trainer.steps_summed = int(checkpoint.name.split("-")[1])
        run.restore(trainer.steps_summed // steps)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.steps_summed < trainer.state.global_step:  # the last epochs, after the last evaluation
        trainer.evaluate()


def train_in_a_loop(
    recipe: Any,
    data: Any,
    model: torch.nn.Module,
    accelerator: Accelerator,
    output_dir: Path,
) -> LastWeightsRun:
    """Train to the last epoch, from the state in `output_dir` if there is one."""
    loader = recipe.training_loader(data, accelerator.num_processes, accelerator.process_index)
    steps = recipe.steps_per_epoch(data)
    model.to(accelerator.device)
    optimizer = recipe.make_optimizer(model)
    scheduler = recipe.make_scheduler(optimizer, steps)
    parallel_model, optimizer = accelerator.prepare(model, optimizer)
    run = recipe.make_run(data, output_dir)
    state_file, first_epoch = output_dir / "training_state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        first_epoch = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        run.restore(first_epoch)

    parallel_model.train()
    loss_sum, steps_summed = torch.zeros((), device=accelerator.device), 0
    for epoch in range(first_epoch, recipe.epochs):
        for part in parts_of_an_epoch(data.train, loader):
            part.set_epoch(epoch)
        for step, batch in enumerate(loader, start=epoch * steps):
            seed_step(recipe.seed, step, accelerator.process_index)
            loss = parallel_model(**send_to_device(batch, accelerator.device)).loss
            accelerator.backward(loss)
            loss_sum += loss.detach()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            steps_summed += 1
            if (step + 1) % recipe.log_every == 0:
                accelerator.print(f"step {step + 1}: loss {loss_sum.item() / steps_summed:.4g}", flush=True)
        if (epoch + 1) % recipe.evaluate_every and epoch + 1 < recipe.epochs:
            continue
        run.evaluate(
            model,
            None,
            accelerator,
            epoch=epoch + 1,
            learning_rate=scheduler.get_last_lr()[0],
            train_loss=accelerator.reduce(loss_sum, "mean").item() / steps_summed,
        )
        loss_sum, steps_summed = torch.zeros_like(loss_sum), 0
        if accelerator.is_main_process:
            state = {
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
            }
            torch.save(state, state_file.with_suffix(".part"))
            os.replace(state_file.with_suffix(".part"), state_file)
    return run


def run_accelerate(recipe_class: type, description: str, arguments: list[str] | None = None):
    """Train in a plain loop as the command line says."""
    recipe, options = parse_arguments(description, arguments, recipe_class)
    output_dir = Path(options.output_dir)
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    train_in_a_loop(recipe, data, recipe.build_model(data), accelerator, output_dir)
    accelerator.end_training()
