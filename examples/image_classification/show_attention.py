"""Draw the attention maps of test photographs, and measure where they lie and what covering their places does."""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageClassification

from hvmodels.datasets.image_classification import read_labelled_images
from hvmodels.models.aib import AIBImageProcessor
from hvmodels.visualization.attention import draw_attention_grid


SHARE = 0.25  # of a map's positions is covered


def classify(model, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(predictions (images,), mean maps (images, height, width)) without sampling."""
    logits, maps = [], []
    for batch in pixel_values.split(64):
        with torch.no_grad():
            outputs = model(batch)
        logits.append(outputs.logits)
        maps.append(outputs.attention_maps.mean(dim=1))
    return torch.cat(logits).argmax(dim=-1), torch.cat(maps)


def cover(pixel_values: torch.Tensor, order: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The images with the first positions of `order` (images, positions) replaced by the image's mean colour."""
    hidden = torch.zeros(order.shape).scatter(1, order[:, : round(SHARE * order.shape[1])], 1.0)
    hidden = hidden.view(-1, 1, *size)
    hidden = torch.nn.functional.interpolate(hidden, size=pixel_values.shape[-2:], mode="nearest")
    return torch.where(hidden > 0, pixel_values.mean(dim=(2, 3), keepdim=True), pixel_values)


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Folder of an AIB model.")
    parser.add_argument("--data", required=True, help="Parquet file, or folder of class folders.")
    parser.add_argument("--output", type=Path, default=Path("outputs/attention.png"))
    parser.add_argument("--each", type=int, default=2, help="Pictures of each class in the figure.")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_pretrained(options.model).eval()
    model.config.stochastic_eval = False
    processor = AIBImageProcessor.from_pretrained(options.model)
    data = read_labelled_images(options.data)
    images = [data.image(index) for index in range(len(data))]
    labels = torch.from_numpy(data.labels)
    pixel_values = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
    predictions, maps = classify(model, pixel_values)
    height, width = maps.shape[1:]

    rows, columns = torch.arange(height), torch.arange(width)
    inner = ((rows >= height // 4) & (rows < height - height // 4))[:, None]
    inner = inner & ((columns >= width // 4) & (columns < width - width // 4))[None]
    print(f"accuracy {(predictions == labels).float().mean():.3f} on {len(images)} images")
    print(f"scores {maps.min():.3f} to {maps.max():.3f}, spread within an image {maps.std(dim=(1, 2)).mean():.3f}")
    centre, border = maps[:, inner].mean(dim=1), maps[:, ~inner].mean(dim=1)
    print(f"mean score in the inner quarter {centre.mean():.3f}, around it {border.mean():.3f}")
    print(f"images with more in the inner quarter {(centre > border).float().mean():.3f}")
    brightness = torch.nn.functional.adaptive_avg_pool2d(pixel_values.mean(dim=1), (height, width))
    pairs = zip(maps.flatten(1).numpy(), brightness.flatten(1).numpy(), strict=True)
    print(
        f"correlation of score and brightness in an image {np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]):.2f}"
    )
    orders = {
        "highest": maps.flatten(1).argsort(dim=1, descending=True),
        "lowest": maps.flatten(1).argsort(dim=1),
        "random": torch.rand(len(maps), height * width).argsort(dim=1),
    }
    for name, order in orders.items():
        covered, _ = classify(model, cover(pixel_values, order, (height, width)))
        accuracy = (covered == labels).float().mean()
        print(f"accuracy with the {name} {SHARE:.0%} of the map's positions covered {accuracy:.3f}")

    chosen = [
        index for label in range(len(data.class_names)) for index in np.flatnonzero(labels == label)[: options.each]
    ]
    titles = [f"{data.class_names[labels[i]]}: {model.config.id2label[int(predictions[i])]}" for i in chosen]
    sheet = draw_attention_grid([images[i] for i in chosen], maps[chosen].numpy(), titles, tile_size=96)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output)
    print(f"figure in {options.output}")


if __name__ == "__main__":
    main()
