"""Train a forecaster in a plain loop with Accelerate: one process, or `accelerate launch`."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from recipe import ForecastingData, Recipe, claim_output_dir, finish_run, parse_arguments, validation_error
from transformers import PreTrainedModel


def train(
    recipe: Recipe, data: ForecastingData, accelerator: Accelerator, state_file: Path | None = None
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """Train until the validation error stops falling; go on from `state_file` if it exists.

    Returns:
        The model with its best weights, and one entry an epoch.
    """
    share, rest = divmod(recipe.batch_size, accelerator.num_processes)
    if rest:
        raise ValueError(
            f"`batch_size` must be a multiple of the {accelerator.num_processes} processes, got {recipe.batch_size}."
        )
    if recipe.original_draws and accelerator.num_processes > 1:
        raise ValueError(f"`original_draws` needs one process, got {accelerator.num_processes}.")
    model, shuffle = recipe.build_model(data)
    model.to(accelerator.device)
    optimizer = recipe.build_optimizer(model)
    loss_arguments = {name: value.to(accelerator.device) for name, value in recipe.loss_arguments(data).items()}
    history, best_weights = [], None
    if state_file is not None and state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history, best_weights = state["history"], state["best_weights"]
        torch.set_rng_state(state["random_state"])
    parallel_model = accelerator.prepare_model(model)
    best = min(history, key=lambda entry: entry["validation_error"], default=None)

    for epoch in range(len(history), recipe.epochs):
        if best is not None and epoch - best["epoch"] >= recipe.patience:
            break
        learning_rate = recipe.learning_rate * recipe.learning_rate_factor(epoch)
        optimizer.param_groups[0]["lr"] = learning_rate
        order = shuffle.start_epoch(epoch)
        if not recipe.keeps_partial_batch:
            order = order[: len(order) // recipe.batch_size * recipe.batch_size]
        batches = order.split(share)[accelerator.process_index :: accelerator.num_processes]
        train_loss = torch.zeros((), device=accelerator.device)
        model.train()
        for indices in batches:
            batch = {name: value.to(accelerator.device) for name, value in data.train.__getitems__(indices).items()}
            loss = parallel_model(**batch, **loss_arguments).loss
            accelerator.backward(loss)
            optimizer.step()
            parallel_model.zero_grad()
            train_loss += loss.detach()
        model.eval()
        entry = {
            "epoch": epoch + 1,
            "learning_rate": learning_rate,
            "train_loss": accelerator.reduce(train_loss, "mean").item() / len(batches),
            "validation_error": validation_error(recipe, model, data, accelerator, shuffle.end_epoch()),
        }
        history.append(entry)
        if best is None or entry["validation_error"] < best["validation_error"]:
            best = entry
            best_weights = {name: value.clone() for name, value in model.state_dict().items()}
        if state_file is not None and accelerator.is_main_process:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"history": history, "best_weights": best_weights, "random_state": torch.get_rng_state()}
            torch.save(state, state_file.with_suffix(".part"))
            os.replace(state_file.with_suffix(".part"), state_file)
            print(
                "epoch {epoch}: train {train_loss:.5f}, validation {validation_error:.5f}".format(**entry), flush=True
            )

    model.load_state_dict(best_weights)
    return model.eval(), history


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments)
    output_dir = Path(options.output_dir)
    accelerator = Accelerator(
        mixed_precision="no", kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    model, history = train(recipe, data, accelerator, output_dir / "training_state.pt")
    if accelerator.is_main_process:
        finish_run(recipe, data, model, history, output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
