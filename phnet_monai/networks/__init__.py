"""Networks: `PHNet`, its backbones by name, and checkpoints as data."""

from phnet_monai.networks.checkpoint import (
    CheckpointError,
    export_state_dict,
    load_checkpoint,
    load_ensemble,
    load_network,
    read_checkpoint,
)
from phnet_monai.networks.dcgan import DCGANDiscriminator, DCGANGenerator, initialise_dcgan
from phnet_monai.networks.ensemble import Ensemble
from phnet_monai.networks.phnet import PHNet, embedding_at, make_second_student, make_teacher, with_sync_batch_norm
from phnet_monai.networks.weights import WeightsError

__all__ = [
    "CheckpointError",
    "DCGANDiscriminator",
    "DCGANGenerator",
    "Ensemble",
    "PHNet",
    "WeightsError",
    "embedding_at",
    "export_state_dict",
    "initialise_dcgan",
    "load_checkpoint",
    "load_ensemble",
    "load_network",
    "make_second_student",
    "make_teacher",
    "read_checkpoint",
    "with_sync_batch_norm",
]
