"""Engines: the semi-supervised trainer with its views and events, and the evaluator."""

from phnet_monai.engines.evaluator import LesionEvaluator
from phnet_monai.engines.schedule import polynomial_schedule
from phnet_monai.engines.step import PatchPlan, SemiSupervisedEvents, Step, View
from phnet_monai.engines.trainer import NonFiniteLossError, SemiSupervisedTrainer

__all__ = [
    "LesionEvaluator",
    "NonFiniteLossError",
    "PatchPlan",
    "SemiSupervisedEvents",
    "SemiSupervisedTrainer",
    "Step",
    "View",
    "polynomial_schedule",
]
