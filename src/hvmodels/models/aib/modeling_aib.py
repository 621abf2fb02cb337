"""AIB: image classification through one sampled attention map and a sampled code, trained as an information bottleneck.

Paper: "Information Bottleneck Approach to Spatial Attention Learning" (Lai et al., IJCAI 2021, arXiv 2108.03418).
Original code: github.com/ashleylqx/AIB, three scripts with one network family each.

Differences from the original, none of which changes a value by more than rounding:

* Maps have the size of the feature map, and the encoder of the VGG for CIFAR takes the mean of the positions it ends with,
  so that images of any size can be given. The original takes 32 or 224 pixels only.
* The nearest anchor is found in the sorted anchors, not among the distances to all of them.
* The last layer of the decoder is applied to the mean over the codes of a map, which commutes with it.
* The divergence is computed in closed form; the original builds distribution objects.
* Outside of training batch norms are folded into convolutions, and maps of larger batches have their channels last in memory.
* `stochastic_eval=False` takes the means of map and code, so that an answer does not depend on chance. The original has
  no such switch.
* The unused layers of the wide ResNet-50 are left out.

Kept on purpose: noise is drawn outside of training as well; the divergence takes the exponential of the standard deviation
that codes are sampled with, so that it is smallest where they have none (`kl_sigma="exp"`); every code of S maps is
sampled S times; the attention head of the wide ResNet for CIFAR is as wide as the number of labels.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .attention_aib import AIBAttention, standard_normal
from .configuration_aib import AIBConfig
from .networks_aib import MINIMUM_SIDES, build_networks


CHANNELS_LAST_PIXELS = 8 * 32 * 32


@dataclass
class AIBModelOutput(ModelOutput):
    """Output of `AIBModel`.

    Args:
        last_hidden_state: (batch, channels, h, w), the features before the attention.
        attention_maps: (batch, samples, h, w), sampled scores, not clipped to [0, 1], before quantisation.
        quantized_attention_maps: (batch, samples, h, w), the nearest anchors; None without quantisation.
        latent_mean: (batch, samples, latent_dim), mean of the code of each map.
        latent_std: (batch, samples, latent_dim), its standard deviation.
        latents: (batch, samples, samples, latent_dim): of each map, as many sampled codes as there are maps.
        vq_losses: (batch,), mean squared distance of the anchors to the scores; None without quantisation.
        commitment_losses: (batch,), mean squared distance of the scores to the anchors; None without quantisation.
    """

    last_hidden_state: torch.Tensor | None = None
    attention_maps: torch.Tensor | None = None
    quantized_attention_maps: torch.Tensor | None = None
    latent_mean: torch.Tensor | None = None
    latent_std: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    vq_losses: torch.Tensor | None = None
    commitment_losses: torch.Tensor | None = None


@dataclass
class AIBImageClassifierOutput(ModelOutput):
    """Output of `AIBForImageClassification`; losses are scalars, and there with `labels` only.

    Args:
        loss: `class_loss + beta * info_loss + vq_weight * vq_loss + commitment_weight * commitment_loss`.
        logits: (batch, num_labels), mean over all maps and codes.
        class_loss: Cross-entropy of the logits, in bits.
        info_loss: Mean divergence of the codes from the standard normal times `info_loss_scale`, in bits.
        vq_loss: Mean squared distance of the anchors to the scores; None without quantisation.
        commitment_loss: Mean squared distance of the scores to the anchors; None without quantisation.
        attention_maps: (batch, samples, h, w), sampled scores, not clipped to [0, 1], before quantisation.
        quantized_attention_maps: (batch, samples, h, w), the nearest anchors; None without quantisation.
        latent_mean: (batch, samples, latent_dim), mean of the code of each map.
        latent_std: (batch, samples, latent_dim), its standard deviation.
        sample_logits: (batch, samples, num_labels), those of each map, mean over its codes.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    class_loss: torch.Tensor | None = None
    info_loss: torch.Tensor | None = None
    vq_loss: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    attention_maps: torch.Tensor | None = None
    quantized_attention_maps: torch.Tensor | None = None
    latent_mean: torch.Tensor | None = None
    latent_std: torch.Tensor | None = None
    sample_logits: torch.Tensor | None = None


def divergence_from_standard_normal(mean: torch.Tensor, std: torch.Tensor, kl_sigma: str) -> torch.Tensor:
    """Kullback-Leibler divergence of independent normals from the standard normal, in nats, summed over the last axis.

    Args:
        mean: (..., values).
        std: (..., values), what codes are sampled with.
        kl_sigma: `"exp"` takes exp(std) for the standard deviation, `"direct"` takes std.
    """
    if kl_sigma == "exp":
        terms = torch.expm1(2 * std) - 2 * std
    else:
        terms = std.square() - 1 - 2 * std.clamp(min=torch.finfo(std.dtype).tiny).log()
    return 0.5 * (terms + mean.square()).sum(-1)


class AIBDecoder(nn.Module):
    """Codes to logits.

    Args:
        latent_dim: Size of a code.
        num_labels: Number of labels.
        has_hidden_layer: Whether there is a linear layer before the ReLU.
    """

    def __init__(self, latent_dim: int, num_labels: int, has_hidden_layer: bool):
        super().__init__()
        self.hidden = nn.Linear(latent_dim, latent_dim) if has_hidden_layer else nn.Identity()
        self.classifier = nn.Linear(latent_dim, num_labels)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """(batch, samples, codes, latent_dim) to (batch, samples, num_labels), mean over codes."""
        return self.classifier(self.hidden(latents).relu().mean(2))


class AIBPreTrainedModel(PreTrainedModel):
    """Initial weights and loading."""

    config: AIBConfig
    base_model_prefix = "aib"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """As the original's script of the backbone does; its pretrained backbones are a matter of conversion."""
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d | nn.Linear):
            self._init_layer(module)
        elif isinstance(module, nn.BatchNorm2d) and self.config.backbone_type == "vgg_cifar":
            init.uniform_(module.weight, 0, 1)
        elif isinstance(module, AIBAttention) and module.anchors is not None:
            init.copy_(module.anchors, torch.linspace(0, 1, len(module.anchors)))

    def _init_layer(self, module: nn.Conv2d | nn.Linear):
        inputs, outputs = module.weight[0].numel(), len(module.weight)
        if self.config.backbone_type in ("vgg_cifar", "vgg16"):
            init.xavier_uniform_(module.weight, gain=math.sqrt(2))
            if module.bias is not None:
                init.zeros_(module.bias)
            return
        # The residual networks leave what they do not name as PyTorch sets it: uniform within 1 / sqrt(inputs).
        bound = 1 / math.sqrt(inputs)
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            init.normal_(module.weight, std=math.sqrt(2 / (kernel * outputs)))
        else:
            init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            if isinstance(module, nn.Linear) and self.config.backbone_type == "wide_resnet_cifar":
                init.zeros_(module.bias)
            else:
                init.uniform_(module.bias, -bound, bound)


class AIBModel(AIBPreTrainedModel):
    """Features, sampled attention maps, and sampled codes."""

    def __init__(self, config: AIBConfig):
        super().__init__(config)
        networks = build_networks(config)
        self.backbone = networks.backbone
        self.attention = AIBAttention(
            networks.attention_head,
            config.num_anchors if config.use_quantization else None,
            config.train_anchors,
            config.std_offset,
        )
        self.encoder = networks.encoder
        self.statistics = nn.Linear(networks.encoder_channels, 2 * config.latent_dim)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first layer."""
        return self.backbone[0]

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        attention_noise: torch.Tensor | None = None,
        latent_noise: torch.Tensor | None = None,
        **kwargs,
    ) -> AIBModelOutput:
        """Compute features, attention maps and codes.

        Noise for the maps is drawn before that for the codes, as in the original: one seed gives its numbers.

        Args:
            pixel_values: (batch, num_channels, height, width), normalised images.
            num_samples: Maps of an image, and codes of a map; as given noise has them, or `num_samples_train` or
                `num_samples_eval` if None.
            generator: For the noise that is drawn; that of the device if None.
            attention_noise: (samples, batch, h * w), for one sample also (batch, h * w), standard normal numbers.
            latent_noise: (samples, samples * batch, latent_dim), for one sample also (batch, latent_dim), standard normal
                numbers; row `sample * batch + image`.
            kwargs: `return_dict`.

        Outside of training with `stochastic_eval=False` the means are taken, once, unless `num_samples`, the generator or
        noise is given.

        Raises:
            ValueError: If the images, the number of samples or the noise do not fit.
        """
        config = self.config
        if pixel_values.ndim != 4 or pixel_values.shape[1] != config.num_channels or 0 in pixel_values.shape:
            raise ValueError(
                f"`pixel_values` must have the shape (batch, {config.num_channels}, height, width) without empty axes, got "
                f"{tuple(pixel_values.shape)}; the image processor makes them."
            )
        minimum = MINIMUM_SIDES[config.backbone_type]
        if min(pixel_values.shape[2:]) < minimum:
            raise ValueError(
                f"`pixel_values` must have sides of {minimum} pixels or more for {config.backbone_type!r}, got "
                f"{pixel_values.shape[2]} x {pixel_values.shape[3]}."
            )
        given = (num_samples, generator, attention_noise, latent_noise)
        stochastic = self.training or config.stochastic_eval or any(value is not None for value in given)
        if num_samples is None:
            noise = latent_noise if attention_noise is None else attention_noise
            if noise is not None:
                num_samples = len(noise) if noise.ndim == 3 else 1
            elif self.training:
                num_samples = config.num_samples_train
            else:
                num_samples = config.num_samples_eval if stochastic else 1
        elif isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"`num_samples` must be a whole number of 1 or more, got {num_samples!r}.")

        # Channels last in memory is faster, but not for a few small images, whose weights take longer to rearrange; and
        # batch statistics come out less exact.
        is_large = pixel_values[:, 0].numel() >= CHANNELS_LAST_PIXELS
        memory_format = torch.channels_last if is_large and not self.training else torch.contiguous_format
        pixel_values = pixel_values.to(self.dtype).contiguous(memory_format=memory_format)
        features = self.backbone(pixel_values)
        attention = self.attention(features, num_samples, attention_noise, generator, stochastic)
        statistics = self.statistics(self.encoder(attention.attended_features))
        mean, spread = statistics.chunk(2, dim=-1)
        std = nn.functional.softplus(spread - config.std_offset)
        batch, size = len(pixel_values), config.latent_dim
        latents = mean.expand(num_samples, *mean.shape)
        if stochastic:
            latents = mean + std * standard_normal(tuple(latents.shape), mean, latent_noise, generator, "latent_noise")
        return AIBModelOutput(
            last_hidden_state=features,
            attention_maps=attention.attention_maps,
            quantized_attention_maps=attention.quantized_attention_maps,
            latent_mean=mean.view(num_samples, batch, size).transpose(0, 1),
            latent_std=std.view(num_samples, batch, size).transpose(0, 1),
            latents=latents.view(num_samples, num_samples, batch, size).permute(2, 1, 0, 3),
            vq_losses=attention.vq_losses,
            commitment_losses=attention.commitment_losses,
        )


class AIBForImageClassification(AIBPreTrainedModel):
    """AIB with its decoder and its loss."""

    def __init__(self, config: AIBConfig):
        super().__init__(config)
        self.aib = AIBModel(config)
        has_hidden_layer = config.backbone_type != "wide_resnet_cifar"
        self.decoder = AIBDecoder(config.latent_dim, config.num_labels, has_hidden_layer)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """That of the base model."""
        return self.aib.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_samples: int | None = None,
        generator: torch.Generator | None = None,
        attention_noise: torch.Tensor | None = None,
        latent_noise: torch.Tensor | None = None,
        **kwargs,
    ) -> AIBImageClassifierOutput:
        """Classify images, and compute the loss if labels are given.

        Args:
            pixel_values: (batch, num_channels, height, width), normalised images.
            labels: (batch,), class indices.
            num_samples: See `AIBModel.forward`, as for all that follow.
            generator: For the noise that is drawn.
            attention_noise: Standard normal numbers for the maps.
            latent_noise: Standard normal numbers for the codes.
            kwargs: `return_dict`.

        Raises:
            ValueError: If images, labels, the number of samples or the noise do not fit.
        """
        if labels is not None:
            self._check_labels(labels, len(pixel_values))
        outputs = self.aib(pixel_values, num_samples, generator, attention_noise, latent_noise, return_dict=True)
        sample_logits = self.decoder(outputs.latents)
        logits = sample_logits.mean(1)
        losses = {}
        if labels is not None:
            with torch.autocast(logits.device.type, enabled=False):
                losses = self._losses(logits, labels, outputs)
        return AIBImageClassifierOutput(
            logits=logits,
            attention_maps=outputs.attention_maps,
            quantized_attention_maps=outputs.quantized_attention_maps,
            latent_mean=outputs.latent_mean,
            latent_std=outputs.latent_std,
            sample_logits=sample_logits,
            **losses,
        )

    def _check_labels(self, labels: torch.Tensor, batch: int):
        if tuple(labels.shape) != (batch,) or labels.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"`labels` must be ({batch},) class indices of type int64, got shape {tuple(labels.shape)} of "
                f"{labels.dtype}."
            )
        if labels.min() < 0 or labels.max() >= self.config.num_labels:
            raise ValueError(
                f"`labels` must be from 0 to {self.config.num_labels - 1}, got {labels.min()} to {labels.max()}."
            )

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor, outputs: AIBModelOutput) -> dict[str, torch.Tensor]:
        config, dtype = self.config, torch.promote_types(logits.dtype, torch.float32)
        class_loss = nn.functional.cross_entropy(logits.to(dtype), labels.long()) / math.log(2)
        divergence = divergence_from_standard_normal(
            outputs.latent_mean.to(dtype), outputs.latent_std.to(dtype), config.kl_sigma
        )
        info_loss = config.info_loss_scale * divergence.mean() / math.log(2)
        losses = {"loss": class_loss + config.beta * info_loss, "class_loss": class_loss, "info_loss": info_loss}
        if outputs.vq_losses is not None:
            losses["vq_loss"] = outputs.vq_losses.to(dtype).mean()
            losses["commitment_loss"] = outputs.commitment_losses.to(dtype).mean()
            losses["loss"] = (
                losses["loss"]
                + config.vq_weight * losses["vq_loss"]
                + config.commitment_weight * losses["commitment_loss"]
            )
        return losses


__all__ = [
    "AIBForImageClassification",
    "AIBImageClassifierOutput",
    "AIBModel",
    "AIBModelOutput",
    "AIBPreTrainedModel",
]
