"""Handlers: thin adapters that bring the pure functions into a training step."""

from phnet_monai.handlers.apa import AdaptivePatchAugmentation
from phnet_monai.handlers.checkpoints import SaveCheckpoints
from phnet_monai.handlers.ema import EMATeacher, ema_update
from phnet_monai.handlers.group import HandlerGroup
from phnet_monai.handlers.hpc import HardPatchContrast
from phnet_monai.handlers.load_weights import LoadWeights
from phnet_monai.handlers.mean_teacher import MeanTeacher
from phnet_monai.handlers.progress import Progress
from phnet_monai.handlers.run_evaluator import RunEvaluator
from phnet_monai.handlers.training_log import TrainingLog
from phnet_monai.handlers.write_scores import WriteScores

__all__ = [
    "AdaptivePatchAugmentation",
    "EMATeacher",
    "HandlerGroup",
    "HardPatchContrast",
    "LoadWeights",
    "MeanTeacher",
    "Progress",
    "RunEvaluator",
    "SaveCheckpoints",
    "TrainingLog",
    "WriteScores",
    "ema_update",
]
