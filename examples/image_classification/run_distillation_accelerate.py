"""Train an image classifier, alone or by distillation, in a plain loop with Accelerate: one process, or `accelerate launch`."""

import os
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import send_to_device
from distillation_recipe import (
    DistillationRecipe,
    ImageData,
    LastWeightsRun,
    claim_output_dir,
    parse_arguments,
    seed_step,
)

from hvmodels.distillation import WITHOUT_TEACHER, LossTermMeans, parameter_groups, warmup_cosine_schedule
from hvmodels.models.vitkd import ViTKDForImageClassification
from hvmodels.weight_averaging import ExponentialMovingAverage


def build_model(recipe: DistillationRecipe, data: ImageData) -> ViTKDForImageClassification:
    """Student and teacher, joined."""
    student, teacher = recipe.build_student(data), recipe.load_teacher()
    fields = {**(WITHOUT_TEACHER if teacher is None else {}), **(recipe.distillation or {})}
    return ViTKDForImageClassification.from_pair(student, teacher, **fields)


def train(
    recipe: DistillationRecipe,
    data: ImageData,
    model: ViTKDForImageClassification,
    accelerator: Accelerator,
    output_dir: Path,
) -> LastWeightsRun:
    """Train to the last epoch, from the state in `output_dir` if there is one."""
    loader = recipe.training_loader(data, model.student, accelerator.num_processes, accelerator.process_index)
    steps = recipe.steps_per_epoch(data)
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), recipe.learning_rate, fused=True)
    scheduler = warmup_cosine_schedule(
        optimizer,
        steps,
        recipe.epochs,
        recipe.warmup_epochs,
        min_factor=recipe.min_learning_rate / recipe.learning_rate,
    )
    parallel_model, optimizer = accelerator.prepare(model, optimizer)
    average = None
    if recipe.average_momentum:
        average = ExponentialMovingAverage(1 - recipe.average_momentum, copy_first=True)
        average.start(model)
    run = recipe.make_run(data, output_dir)
    state_file, first_epoch = output_dir / "training_state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        first_epoch = state["epoch"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if average is not None:
            average.take_up(state["average"])
        run.restore(first_epoch)

    parallel_model.train()
    means, log_means, start = LossTermMeans(), LossTermMeans(), time.perf_counter()
    for epoch in range(first_epoch, recipe.epochs):
        data.train.set_epoch(epoch)
        loader.batch_sampler.set_epoch(epoch)
        for step, batch in enumerate(loader, start=epoch * steps):
            seed_step(recipe.seed, step, accelerator.process_index)
            with accelerator.autocast():
                outputs = parallel_model(**send_to_device(batch, accelerator.device))
            accelerator.backward(outputs.loss)
            accelerator.clip_grad_norm_(parallel_model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            if average is not None:
                average.update(model)
            for collected in (means, log_means):
                collected.update(outputs)
            if (step + 1) % recipe.log_every == 0:
                terms = log_means.compute(accelerator)
                accelerator.print(
                    f"step {step + 1}: {', '.join(f'{k} {v:.4g}' for k, v in terms.items())}", flush=True
                )
        if (epoch + 1) % recipe.evaluate_every and epoch + 1 < recipe.epochs:
            continue
        terms = means.compute(accelerator)
        with nullcontext() if average is None else average.applied(model):
            run.evaluate(
                model.student,
                None,
                accelerator,
                epoch=epoch + 1,
                learning_rate=scheduler.get_last_lr()[0],
                train_loss=terms.pop("loss"),
                **terms,
                seconds=time.perf_counter() - start,
            )
        if accelerator.is_main_process:
            state = {
                "epoch": epoch + 1,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "average": None if average is None else average.averages,
            }
            torch.save(state, state_file.with_suffix(".part"))
            os.replace(state_file.with_suffix(".part"), state_file)
    return run


def main(arguments: list[str] | None = None):
    recipe, options = parse_arguments(__doc__, arguments, DistillationRecipe)
    output_dir = Path(options.output_dir)
    use_cpu = not torch.accelerator.is_available()  # without it, bfloat16 needs a GPU
    accelerator = Accelerator(
        cpu=use_cpu,
        mixed_precision=recipe.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    data = recipe.load_data()
    claim_output_dir(recipe, output_dir, options.resume)
    train(recipe, data, build_model(recipe, data), accelerator, output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
