"""Train a forecaster with the Trainer of transformers: one process, or `accelerate launch`."""

from pathlib import Path

import torch
from accelerate import PartialState
from recipe import (
    EpochShuffle,
    ForecastingData,
    Recipe,
    claim_output_dir,
    finish_run,
    parse_arguments,
    validation_error,
)
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hvmodels.datasets.forecasting import collate_windows


class ForecastingTrainer(Trainer):
    """Trainer with the recipe's shuffles, whose validation loss is exact whatever the batches and processes."""

    def __init__(self, *args, recipe: Recipe, data: ForecastingData, shuffle: EpochShuffle, **kwargs):
        super().__init__(*args, **kwargs)
        self.recipe, self.data, self.shuffle = recipe, data, shuffle
        self.loss_arguments = {name: value.to(self.args.device) for name, value in recipe.loss_arguments(data).items()}

    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(model, {**inputs, **self.loss_arguments}, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.train_dataset,
            batch_size=self.args.train_batch_size,
            sampler=self.shuffle,
            collate_fn=self.data_collator,
            drop_last=True,
        )
        return self.accelerator.prepare(loader)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        self.model.eval()
        error = validation_error(self.recipe, self.model, self.data, self.accelerator)
        metrics = {f"{metric_key_prefix}_loss": error}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def last_checkpoint(output_dir: Path) -> str | None:
    """The newest checkpoint that was written to its end; its `trainer_state.json` comes last."""
    complete = [path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments)
    if recipe.original_draws:
        raise ValueError("`original_draws` needs the plain loop, train_forecasting_accelerate.py.")
    output_dir = Path(options.output_dir)
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=recipe.epochs,
        max_grad_norm=0,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        remove_unused_columns=False,
        label_names=["future_values"],
        ddp_broadcast_buffers=False,
        disable_tqdm=True,
        report_to="none",
        seed=recipe.seed,
    )
    devices = args.world_size * max(args.n_gpu, 1)
    if recipe.batch_size % devices:
        raise ValueError(f"`batch_size` must be a multiple of the {devices} devices, got {recipe.batch_size}.")
    args.per_device_train_batch_size = recipe.batch_size // devices
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)

    model, shuffle = recipe.build_model(data)
    optimizer = recipe.build_optimizer(model)
    steps = len(data.train) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.learning_rate_factor(step // steps))
    trainer = ForecastingTrainer(
        model=model,
        args=args,
        data_collator=collate_windows,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=data.feature_extractor,
        callbacks=[EarlyStoppingCallback(recipe.patience)],
        optimizers=(optimizer, schedule),
        recipe=recipe,
        data=data,
        shuffle=shuffle,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
    if trainer.is_world_process_zero():
        finish_run(recipe, data, trainer.model, epochs_of(trainer.state.log_history), output_dir)


def epochs_of(log_history: list[dict]) -> list[dict[str, float]]:
    """One entry an epoch, as in the plain loop."""
    training = [entry for entry in log_history if "loss" in entry]
    validation = [entry for entry in log_history if "eval_loss" in entry]
    return [
        {
            "epoch": index,
            "learning_rate": fit["learning_rate"],
            "train_loss": fit["loss"],
            "validation_error": check["eval_loss"],
        }
        for index, (fit, check) in enumerate(zip(training, validation, strict=True), start=1)
    ]


if __name__ == "__main__":
    main()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # its threads could abort a process at its exit
