"""Networks: `PHNet`, its backbones by name, and checkpoints as data."""

from phnet_monai.networks.checkpoint import (
    CheckpointError,
    export_state_dict,
    load_checkpoint,
    load_ensemble,
    load_network,
    read_checkpoint,
)
from phnet_monai.networks.ensemble import Ensemble
from phnet_monai.networks.phnet import PHNet, embedding_at, make_second_student, make_teacher
from phnet_monai.networks.weights import WeightsError

__all__ = [
    "CheckpointError",
    "Ensemble",
    "PHNet",
    "WeightsError",
    "embedding_at",
    "export_state_dict",
    "load_checkpoint",
    "load_ensemble",
    "load_network",
    "make_second_student",
    "make_teacher",
    "read_checkpoint",
]
