"""Train an image classifier, alone or by distillation, with `DistillationTrainer`: one process, or `accelerate launch`."""

import sys
import time
from pathlib import Path

import torch
from accelerate import PartialState
from distillation_recipe import DistillationRecipe, LastWeightsRun, claim_output_dir, parse_arguments
from torch.utils.data import DataLoader


sys.path.append(str(Path(__file__).parents[1] / "pose_estimation"))  # what training runs share

from train_pose_estimation import StepSeed, last_checkpoint

from hvmodels.datasets.keypoints import EpochCallback
from hvmodels.distillation import DistillationArguments, DistillationTrainer, LossTermMeans


class RecipeTrainer(DistillationTrainer):
    """Trainer with the recipe's batches, whose evaluation keeps the student and notes accuracies and losses."""

    def __init__(self, *args, loader: DataLoader, run: LastWeightsRun, **kwargs):
        super().__init__(*args, **kwargs)
        self.loader, self.run = loader, run
        self.epoch_means, self.start = LossTermMeans(), time.perf_counter()

    def get_train_dataloader(self) -> DataLoader:
        return self.loader  # each process has its own share already

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True)
        self.epoch_means.update(outputs)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        means = self.epoch_means.compute(self.accelerator)
        with self.averaged_weights():
            entry = self.run.evaluate(
                self.model.student,
                None,
                self.accelerator,
                epoch=round(self.state.epoch),
                learning_rate=self.lr_scheduler.get_last_lr()[0],
                train_loss=means.pop("loss"),
                **means,
                seconds=time.perf_counter() - self.start,
            )
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in entry.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, DistillationRecipe)
    output_dir = Path(options.output_dir)
    data = recipe.load_data()
    steps = recipe.steps_per_epoch(data)
    args = DistillationArguments(
        output_dir=str(output_dir),
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        min_learning_rate=recipe.min_learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        warmup_epochs=recipe.warmup_epochs,
        average_momentum=recipe.average_momentum,
        use_cpu=not torch.accelerator.is_available(),  # without it, bfloat16 needs a GPU
        bf16=recipe.mixed_precision == "bf16",
        fp16=recipe.mixed_precision == "fp16",
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every * steps,
        save_strategy="steps",
        save_steps=recipe.save_every or recipe.evaluate_every * steps,
        save_total_limit=1,
        logging_steps=recipe.log_every,
        label_names=["labels"],
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        disable_tqdm=True,
        report_to="none",
        seed=recipe.seed,
    )
    claim_output_dir(recipe, output_dir, options.resume)

    student = recipe.build_student(data)
    student.to(args.device)
    loader = recipe.training_loader(data, student, args.world_size, args.process_index)
    run = recipe.make_run(data, output_dir)
    trainer = RecipeTrainer(
        student,
        recipe.load_teacher(),
        args,
        recipe.distillation,
        train_dataset=data.train,
        eval_dataset=data.train,  # `LastWeightsRun` knows what to evaluate on
        callbacks=[StepSeed(), EpochCallback(data.train, loader.batch_sampler)],
        loader=loader,
        run=run,
    )
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is not None:
        run.restore(int(checkpoint.name.split("-")[1]) // steps)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if not run.history or run.history[-1]["epoch"] < recipe.epochs:  # the last epochs, after the last evaluation
        trainer.evaluate()


if __name__ == "__main__":
    main()
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()  # its threads could abort a process at its exit
