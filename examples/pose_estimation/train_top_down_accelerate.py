"""Train a top-down pose estimator in a plain loop with Accelerate: one process, or `accelerate launch`."""

import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from optimization import TensorClipping
from pose_recipe import LastWeightsRun, claim_output_dir, parse_arguments, seed_step
from top_down_recipe import TopDownData, TopDownRecipe

from hvmodels.models.rle import RLEForPoseEstimation


def train(
    recipe: TopDownRecipe, data: TopDownData, model: RLEForPoseEstimation, accelerator: Accelerator, output_dir: Path
) -> LastWeightsRun:
    """Train to the last epoch, from the state in `output_dir` if there is one."""
    loader = recipe.training_loader(data, accelerator.num_processes, accelerator.process_index)
    steps = recipe.steps_per_epoch(data)
    model.to(accelerator.device)
    optimizer = recipe.make_optimizer(model)
    scheduler = recipe.make_scheduler(optimizer, steps)
    parallel_model, optimizer = accelerator.prepare(model, optimizer)
    average = recipe.make_average()
    if average is not None:
        average.start(model)
    clipping = TensorClipping(recipe.max_tensor_norm) if recipe.max_tensor_norm else None
    run = recipe.make_run(data, output_dir)
    state_file, first_epoch = output_dir / "training_state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        first_epoch = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if average is not None:
            average.averages = state["average"]
        run.restore(first_epoch)

    recipe.train_mode(model)
    loss_sum, steps_summed, start = torch.zeros((), device=accelerator.device), 0, time.perf_counter()
    for epoch in range(first_epoch, recipe.epochs):
        data.train.set_epoch(epoch)
        if recipe.first_epochs:
            data.train.size = recipe.size_at(epoch)
        loader.batch_sampler.set_epoch(epoch)
        for step, batch in enumerate(loader, start=epoch * steps):
            seed_step(recipe.seed, step, accelerator.process_index)
            batch = send_to_device(batch, accelerator.device)
            loss = parallel_model(**batch).loss
            accelerator.backward(loss)
            loss_sum += loss.detach()
            if clipping is not None:
                clipping.clip(model)
            optimizer.step()
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
            seconds=time.perf_counter() - start,
        )
        loss_sum, steps_summed = torch.zeros_like(loss_sum), 0
        if accelerator.is_main_process:
            state = {
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "average": average.averages if average is not None else None,
            }
            torch.save(state, state_file.with_suffix(".part"))
            os.replace(state_file.with_suffix(".part"), state_file)
    return run


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, TopDownRecipe)
    output_dir = Path(options.output_dir)
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    model = recipe.build_model(data)
    train(recipe, data, model, accelerator, output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
