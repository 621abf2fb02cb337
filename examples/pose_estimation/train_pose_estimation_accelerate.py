"""Train a pose estimator in a plain loop with Accelerate: one process, or `accelerate launch`."""

import os
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from optimization import ExponentialMovingAverage, make_optimizer, make_scheduler
from pose_recipe import PoseData, Recipe, Run, claim_output_dir, parse_arguments, seed_step

from hvmodels.models.ed_pose import EDPoseForPoseEstimation, EDPoseImageProcessor


def train(
    recipe: Recipe,
    data: PoseData,
    model: EDPoseForPoseEstimation,
    processor: EDPoseImageProcessor,
    accelerator: Accelerator,
    output_dir: Path,
) -> Run:
    """Train to the last epoch, from the state in `output_dir` if there is one."""
    loader = recipe.training_loader(data, processor, accelerator.num_processes, accelerator.process_index)
    steps = recipe.steps_per_epoch(data)
    model.to(accelerator.device)
    optimizer = make_optimizer(model, recipe.learning_rate, recipe.backbone_learning_rate, recipe.weight_decay)
    scheduler = make_scheduler(optimizer, recipe.drop_epoch, steps)
    parallel_model, optimizer = accelerator.prepare(model, optimizer)
    average = ExponentialMovingAverage(recipe.average_decay) if recipe.average_decay else None
    if average is not None:
        average.start(model)
    run = Run(recipe, data, processor, output_dir)
    state_file, first_epoch = output_dir / "training_state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        first_epoch = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if average is not None:
            average.averages = state["average"]
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        run.restore(first_epoch)

    parallel_model.train()
    loss_sum, steps_summed = torch.zeros((), device=accelerator.device), 0
    for epoch in range(first_epoch, recipe.epochs):
        for dataset in data.datasets:
            dataset.set_epoch(epoch)
        loader.batch_sampler.set_epoch(epoch)
        batches = iter(loader)
        for step in range(epoch * steps, (epoch + 1) * steps):
            seed_step(recipe.seed, step, accelerator.process_index)
            for part in range(recipe.accumulation_steps):
                batch = send_to_device(next(batches), accelerator.device)
                last = part == recipe.accumulation_steps - 1
                with nullcontext() if last else accelerator.no_sync(parallel_model):
                    loss = parallel_model(**batch).loss / recipe.accumulation_steps
                    accelerator.backward(loss)
                loss_sum += loss.detach()
            accelerator.clip_grad_norm_(parallel_model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            if not accelerator.optimizer_step_was_skipped:
                scheduler.step()
            optimizer.zero_grad()
            if average is not None:
                average.update(model)
            steps_summed += 1
            if (step + 1) % recipe.log_every == 0:
                accelerator.print(f"step {step + 1}: loss {loss_sum.item() / steps_summed:.4f}", flush=True)
        if (epoch + 1) % recipe.evaluate_every and epoch + 1 < recipe.epochs:
            continue
        run.evaluate(
            model,
            average,
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
                "average": average.averages if average is not None else None,
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            }
            torch.save(state, state_file.with_suffix(".part"))
            os.replace(state_file.with_suffix(".part"), state_file)
    return run


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments)
    output_dir = Path(options.output_dir)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        # Some parameters are unused, without denoising or in a batch without persons.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)],
    )
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    model, processor = recipe.build_model(data)
    run = train(recipe, data, model, processor, accelerator, output_dir)
    if accelerator.is_main_process:
        run.finish()
    accelerator.end_training()


if __name__ == "__main__":
    main()
