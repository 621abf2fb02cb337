"""Train a pose estimator with the Trainer of transformers: one process, or `accelerate launch`."""

from pathlib import Path

import torch
from accelerate import PartialState
from optimization import ExponentialMovingAverage, make_optimizer, make_scheduler
from pose_recipe import Run, claim_output_dir, parse_arguments, seed_step
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from hvmodels.datasets.keypoints import EpochCallback


class PoseTrainer(Trainer):
    """Trainer with the recipe's batches, which evaluates by average precision."""

    def __init__(self, *args, loader: DataLoader, run: Run, average: ExponentialMovingAverage | None, **kwargs):
        super().__init__(*args, **kwargs)
        self.loader, self.run, self.average = loader, run, average
        self.loss_sum, self.steps_summed = torch.zeros((), device=self.args.device), 0

    def get_train_dataloader(self) -> DataLoader:
        return self.loader  # each process has its own share already

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
        )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in entry.items() if name.startswith("A")}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class StepSeed(TrainerCallback):
    """Seeds each step, see `seed_step`."""

    def on_step_begin(self, args, state, control, **kwargs):
        seed_step(args.seed, state.global_step, args.process_index)


def last_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that was written to its end; its `trainer_state.json` comes last."""
    complete = [path.parent for path in output_dir.glob("checkpoint-*/trainer_state.json")]
    return max(complete, key=lambda path: int(path.name.split("-")[1])) if complete else None


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments)
    output_dir = Path(options.output_dir)
    data = recipe.load_data()
    steps = recipe.steps_per_epoch(data)
    args = TrainingArguments(
        output_dir=options.output_dir,
        num_train_epochs=recipe.epochs,
        gradient_accumulation_steps=recipe.accumulation_steps,
        max_grad_norm=recipe.max_grad_norm,
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
        ddp_find_unused_parameters=True,  # some are, without denoising or in a batch without persons
        ddp_broadcast_buffers=False,
        disable_tqdm=True,
        report_to="none",
        seed=recipe.seed,
    )
    claim_output_dir(recipe, output_dir, options.resume)

    model, processor = recipe.build_model(data)
    model.to(args.device)
    loader = recipe.training_loader(data, processor, args.world_size, args.process_index)
    optimizer = make_optimizer(model, recipe.learning_rate, recipe.backbone_learning_rate, recipe.weight_decay)
    average = ExponentialMovingAverage(recipe.average_decay) if recipe.average_decay else None
    run = Run(recipe, data, processor, output_dir)
    trainer = PoseTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.train,  # `Run` knows what to evaluate on
        optimizers=(optimizer, make_scheduler(optimizer, recipe.drop_epoch, steps)),
        callbacks=[StepSeed(), EpochCallback(data.train, loader.batch_sampler), *([average] if average else [])],
        loader=loader,
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
    if trainer.is_world_process_zero():
        run.finish()


if __name__ == "__main__":
    main()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # its threads could abort a process at its exit
