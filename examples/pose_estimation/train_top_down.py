"""Train a top-down pose estimator with the Trainer of transformers: one process, or `accelerate launch`."""

import time
from pathlib import Path

import torch
from accelerate import PartialState
from optimization import ExponentialMovingAverage, TensorClipping
from pose_recipe import LastWeightsRun, claim_output_dir, parse_arguments
from top_down_recipe import TopDownRecipe
from torch.utils.data import DataLoader
from train_pose_estimation import StepSeed, last_checkpoint
from transformers import Trainer, TrainerCallback, TrainingArguments

from hvmodels.datasets.keypoints import EpochCallback


class TopDownTrainer(Trainer):
    """Trainer with the recipe's batches and frozen modules, which evaluates PCK or errors in millimetres."""

    def __init__(
        self,
        *args,
        loader: DataLoader,
        recipe: TopDownRecipe,
        run: LastWeightsRun,
        average: ExponentialMovingAverage | None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self.loader, self.recipe, self.run, self.average = loader, recipe, run, average
        self.loss_sum, self.steps_summed = torch.zeros((), device=self.args.device), 0
        self.start = time.perf_counter()

    def get_train_dataloader(self) -> DataLoader:
        return self.loader  # each process has its own share already

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.recipe.train_mode(self.model)  # Trainer has set all modules to training mode
        return super().compute_loss(model, inputs, *args, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.loss_sum += loss
        return loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        steps = self.state.global_step - self.steps_summed
        train_loss = self.accelerator.reduce(self.loss_sum, "mean").item() / steps
        self.loss_sum.zero_()
        self.steps_summed = self.state.global_step
        entry = self.run.evaluate(
            self.model,
            self.average,
            self.accelerator,
            epoch=round(self.state.epoch),
            learning_rate=self.lr_scheduler.get_last_lr()[0],
            train_loss=train_loss,
            seconds=time.perf_counter() - self.start,
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in entry.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class CropSize(TrainerCallback):
    """Sets the size of the training crops of each epoch."""

    def __init__(self, recipe: TopDownRecipe, dataset):
        self.recipe, self.dataset = recipe, dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.dataset.size = self.recipe.size_at(round(state.epoch))


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, TopDownRecipe)
    data = recipe.load_data()
    output_dir = Path(options.output_dir)
    steps = recipe.steps_per_epoch(data)
    args = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=recipe.epochs,
        max_grad_norm=0,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=recipe.evaluate_every * steps,
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
    callbacks = [StepSeed(), EpochCallback(data.train, loader.batch_sampler)]
    if recipe.first_epochs:
        callbacks.append(CropSize(recipe, data.train))
    if recipe.max_tensor_norm:
        callbacks.append(TensorClipping(recipe.max_tensor_norm))
    if average is not None:
        callbacks.append(average)
    run = recipe.make_run(data, output_dir)
    trainer = TopDownTrainer(
        model=model,
        args=args,
        train_dataset=data.subset,
        eval_dataset=data.subset,  # `LastWeightsRun` knows what to evaluate on
        optimizers=(optimizer, recipe.make_scheduler(optimizer, steps)),
        callbacks=callbacks,
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
