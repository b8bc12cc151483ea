"""Handlers: thin adapters that bring the pure functions into a training step."""

from phnet_monai.handlers.apa import AdaptivePatchAugmentation
from phnet_monai.handlers.augseg import AugSeg
from phnet_monai.handlers.bcp import BCP
from phnet_monai.handlers.checkpoints import SaveCheckpoints
from phnet_monai.handlers.cps import CrossPseudoSupervision
from phnet_monai.handlers.den import DataExpansion
from phnet_monai.handlers.ema import EMATeacher, ema_update
from phnet_monai.handlers.group import HandlerGroup
from phnet_monai.handlers.hpc import HardPatchContrast
from phnet_monai.handlers.imas import IMAS
from phnet_monai.handlers.load_weights import LoadWeights
from phnet_monai.handlers.mean_teacher import MeanTeacher
from phnet_monai.handlers.pdf_unet import PseudoMaskGenerator, load_labeler
from phnet_monai.handlers.phnet_release import ReleaseContrast
from phnet_monai.handlers.photometric_view import PhotometricView
from phnet_monai.handlers.progress import Progress
from phnet_monai.handlers.ps_mt import PSMT, AlternatingTeachers
from phnet_monai.handlers.run_evaluator import RunEvaluator
from phnet_monai.handlers.training_log import TrainingLog
from phnet_monai.handlers.u2pl import U2PL
from phnet_monai.handlers.ua_mt import UncertaintyAwareMeanTeacher
from phnet_monai.handlers.unimatch import UniMatch
from phnet_monai.handlers.update_model import UpdateModel
from phnet_monai.handlers.write_scores import WriteScores

__all__ = [
    "BCP",
    "IMAS",
    "PSMT",
    "U2PL",
    "AdaptivePatchAugmentation",
    "AlternatingTeachers",
    "AugSeg",
    "CrossPseudoSupervision",
    "DataExpansion",
    "EMATeacher",
    "HandlerGroup",
    "HardPatchContrast",
    "LoadWeights",
    "MeanTeacher",
    "PhotometricView",
    "Progress",
    "PseudoMaskGenerator",
    "ReleaseContrast",
    "RunEvaluator",
    "SaveCheckpoints",
    "TrainingLog",
    "UncertaintyAwareMeanTeacher",
    "UniMatch",
    "UpdateModel",
    "WriteScores",
    "ema_update",
    "load_labeler",
]
