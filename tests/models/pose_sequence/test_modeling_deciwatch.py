import pytest
import torch

from hvmodels.models.pose_sequence import DeciWatchConfig, DeciWatchForPoseRecovery, DeciWatchModel
from tests.modeling_checks import (
    ModelChecks,
    seed_of_each_module,  # noqa: F401
    seeded,
    with_random_weights,
)


pytestmark = pytest.mark.usefixtures("seed_of_each_module")


SIZES = {"num_joints": 3, "sample_interval": 4, "num_intervals": 3, "hidden_size": 8, "num_attention_heads": 2}
SIZES |= {"encoder_layers": 2, "decoder_layers": 2, "intermediate_size": 12}
CONFIGS = {
    "3d": {},
    "post_norm": {"pre_norm": False, "joint_dim": 2, "encoder_layers": 1},
    "boolean": {"memory_mask_type": "boolean", "dropout": 0.0},
    "person_every_frame": {"sample_interval": 1, "window_normalization": "person", "joint_dim": 2},
}


def make_config(name="3d", **options):
    return DeciWatchConfig(**{**SIZES, **CONFIGS[name], **options})


def make_model(name="3d", model_class=DeciWatchForPoseRecovery, **options):
    """A model in double precision, so that comparisons are sharp."""
    return seeded(lambda: with_random_weights(model_class(make_config(name, **options)))).double()


def make_poses(config, *shape):
    return torch.randn(*shape, config.num_joints, config.joint_dim, dtype=torch.float64)


@pytest.fixture(params=CONFIGS)
def config(request):
    return make_config(request.param)


class TestDeciWatch(ModelChecks):
    base_class = DeciWatchModel
    head_classes = (DeciWatchForPoseRecovery,)

    def make_inputs(self, config, batch_size):
        return {"pose_values": torch.randn(batch_size, config.window_size, config.num_joints, config.joint_dim)}

    def make_labels(self, config, batch_size):
        return {"labels": self.make_inputs(config, batch_size)["pose_values"]}
