"""Train a network that names the actions of skeletons in a plain loop with Accelerate: one process, or `accelerate launch`."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from action_recipe import (
    ActionData,
    ActionRecipe,
    LastWeightsRun,
    claim_output_dir,
    parse_arguments,
    seed_step,
)


def train(
    recipe: ActionRecipe,
    data: ActionData,
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
        for owner in (data.train, loader.batch_sampler):
            owner.set_epoch(epoch)
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


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, ActionRecipe)
    output_dir = Path(options.output_dir)
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)])
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    train(recipe, data, recipe.build_model(data), accelerator, output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
