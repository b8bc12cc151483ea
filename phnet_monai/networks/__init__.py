"""Networks: `PHNet`, its backbones by name, and checkpoints as data."""

from phnet_monai.networks.checkpoint import (
    CheckpointError,
    export_state_dict,
    load_checkpoint,
    read_checkpoint,
)
from phnet_monai.networks.phnet import PHNet, embedding_at, make_teacher
from phnet_monai.networks.weights import WeightsError

__all__ = [
    "CheckpointError",
    "PHNet",
    "WeightsError",
    "embedding_at",
    "export_state_dict",
    "load_checkpoint",
    "make_teacher",
    "read_checkpoint",
]
