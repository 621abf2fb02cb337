"""Picture in, labels and scores out, and on request where the model looked and how sure it is."""

from inspect import signature
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ImageClassificationPipeline
from transformers.image_transforms import to_pil_image
from transformers.image_utils import load_image

from ..visualization.attention import draw_attention


class AttentionImageClassificationPipeline(ImageClassificationPipeline):
    """Classify pictures: `pipeline("attention-image-classification", model=...)(picture, attention=True)`.

    Without further arguments it does what `pipeline("image-classification")` does, for any image classifier. With models
    that have an attention map (AIB) it also tells where they looked. The answer for a picture is always the same, and
    does not depend on its batch: models that draw random numbers get those of `seed`, for every picture anew.

    Call arguments, all optional:
        attention: Whether to give the attention map; default False.
        num_samples: Maps, and codes of a map, that a model draws for a picture; default as its configuration says, where
            `stochastic_eval=False` means none, but the mean. From 2 on, spreads are given.
        seed: Of these draws, default 0; -1 draws differently each time.
        top_k: Labels at most, default 5.
        function_to_apply: As of transformers' pipeline: `"softmax"`, `"sigmoid"` or `"none"`, by default what fits the
            model.
        timeout: Seconds to wait for a picture from the web.

    Returns:
        For one picture a list of `{"label", "score"}`, highest score first; for a list of pictures a list of these. With
        `num_samples` from 2 on each has also `score_std`, the standard deviation of the score over the maps.

        With `attention=True` for one picture a dict of

        - `predictions`: the list of labels;
        - `attention`: float32 (height, width), the mean score of the attention map at each pixel of the picture, which
          for most models is from 0 to 1; NaN where the model does not look, since its processor cuts it off;
        - `overlay`: the picture with the map over it, PIL image;
        - `attention_std`: like `attention`, the standard deviation over the samples, if there are two or more.
    """

    def check_model_type(self, supported_models: Any):
        """Any model that its Auto class loads is welcome; transformers would know its own alone."""

    @property
    def is_stochastic(self) -> bool:
        """Whether the model draws random numbers."""
        return {"num_samples", "generator"} <= set(signature(self.model.forward).parameters)

    @property
    def has_attention(self) -> bool:
        """Whether the model has a map of where it looked."""
        return hasattr(self.image_processor, "post_process_attention")

    def _sanitize_parameters(self, attention=None, num_samples=None, seed=None, **kwargs):
        preprocess, _, postprocess = super()._sanitize_parameters(**kwargs)
        if attention not in (None, True, False):
            raise ValueError(f"`attention` must be True or False, got {attention!r}.")
        if attention and not self.has_attention:
            raise ValueError(
                f"`attention` cannot be given: {type(self.model).__name__} has no attention map, or "
                f"{type(self.image_processor).__name__} no `post_process_attention`; use a model such as "
                "AIBForImageClassification."
            )
        for name, value, lowest in (("num_samples", num_samples, 1), ("seed", seed, -1)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"`{name}` must be a whole number of {lowest} or more, got {value!r}.")
            if not self.is_stochastic:
                raise ValueError(f"`{name}` cannot be used: {type(self.model).__name__} draws no random numbers.")
        if attention is not None:
            preprocess["keep_picture"] = postprocess["attention"] = attention
        forward = {"num_samples": num_samples, "seed": seed}
        return preprocess, {name: value for name, value in forward.items() if value is not None}, postprocess

    def preprocess(self, image, timeout=None, keep_picture=False):
        """Read a picture and prepare it; keep it if a map is to be drawn over it."""
        if not isinstance(image, np.ndarray | torch.Tensor):
            image = load_image(image, timeout=timeout)
        inputs = super().preprocess(image)
        if keep_picture:
            inputs["picture"] = (image if isinstance(image, Image.Image) else to_pil_image(image)).convert("RGB")
        return inputs

    def _forward(self, inputs, num_samples=None, seed=0):
        picture = inputs.pop("picture", None)
        if not self.is_stochastic:
            outputs = super()._forward(inputs)
        elif num_samples is None and not getattr(self.model.config, "stochastic_eval", True):
            outputs = self.model(**inputs)
        else:
            rows = [self._sample(row, num_samples, seed) for row in inputs["pixel_values"].split(1)]
            outputs = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        # A batch is taken apart by its first axis, so that nothing else is kept.
        names = ("logits", "sample_logits", "attention_maps", "quantized_attention_maps")
        results = {name: outputs[name] for name in names if outputs.get(name) is not None}
        return results if picture is None else {**results, "picture": picture}

    def _sample(self, pixel_values: torch.Tensor, num_samples: int | None, seed: int) -> dict[str, torch.Tensor]:
        """One picture by the draws of a seed."""
        generator = torch.Generator(device=self.device)
        if seed == -1:
            generator.seed()
        else:
            generator.manual_seed(seed)
        return self.model(pixel_values=pixel_values, num_samples=num_samples, generator=generator)

    def postprocess(self, outputs, function_to_apply=None, top_k=5, attention=False):
        """Labels and scores, and the map over the picture."""
        options = {"function_to_apply": function_to_apply, "top_k": top_k}
        predictions = super().postprocess(outputs, **options)
        samples = outputs.get("sample_logits")
        if samples is not None and samples.shape[1] > 1:
            self._add_spreads(predictions, samples, function_to_apply)
        if not attention:
            return predictions
        picture = outputs["picture"]
        maps = outputs.get("quantized_attention_maps", outputs["attention_maps"])[0].float().cpu().numpy()
        box = self._visible_box(picture)
        result = {
            "predictions": predictions,
            "attention": _enlarge(maps.mean(axis=0), box, picture),
            "overlay": picture.copy(),
        }
        visible = picture.crop(box)
        result["overlay"].paste(draw_attention(visible, maps.mean(axis=0)), box)
        if len(maps) > 1:
            result["attention_std"] = _enlarge(maps.std(axis=0), box, picture)
        return result

    def _add_spreads(self, predictions: list[dict], sample_logits: torch.Tensor, function_to_apply: Any):
        """Note the standard deviation of each label's score over the samples, of which (1, samples, labels) are given."""
        options = {"function_to_apply": function_to_apply, "top_k": self.model.config.num_labels}
        of_samples = [
            super(AttentionImageClassificationPipeline, self).postprocess({"logits": logits}, **options)
            for logits in sample_logits.unbind(1)
        ]
        scores = [{entry["label"]: entry["score"] for entry in entries} for entries in of_samples]
        for prediction in predictions:
            prediction["score_std"] = float(np.std([sample[prediction["label"]] for sample in scores]))

    def _visible_box(self, picture: Image.Image) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the part of a picture that the processor leaves."""
        processor, edges = self.image_processor, []
        for side, name in ((picture.width, "width"), (picture.height, "height")):
            full = processor.size[name]
            cut = processor.crop_size[name] if processor.do_center_crop else full
            start = (full - cut) / 2
            edges.append((round(start / full * side), round((start + cut) / full * side)))
        (left, right), (top, bottom) = edges
        return left, top, max(right, left + 1), max(bottom, top + 1)


def _enlarge(scores: np.ndarray, box: tuple[int, int, int, int], picture: Image.Image) -> np.ndarray:
    """(height, width) of a picture with the scores in a box of it, and NaN around it."""
    left, top, right, bottom = box
    enlarged = np.full((picture.height, picture.width), np.nan, dtype=np.float32)
    resized = Image.fromarray(scores.astype(np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR
    )
    enlarged[top:bottom, left:right] = np.asarray(resized)
    return enlarged


__all__ = ["AttentionImageClassificationPipeline"]
