"""How good a segmentation is: pooled and per image, surface distances, calibration, statistics."""

from phnet_monai.metrics.calibration import calibration_bins, ece_from_bins
from phnet_monai.metrics.overlap import pooled_dice_iou
from phnet_monai.metrics.per_image import lesion_wise, per_image_scores
from phnet_monai.metrics.report import format_summary, read_per_image, write_scores
from phnet_monai.metrics.scores import SegmentationScores
from phnet_monai.metrics.statistics import bootstrap_interval, holm, weighted_interval, wilcoxon_holm

__all__ = [
    "SegmentationScores",
    "bootstrap_interval",
    "calibration_bins",
    "ece_from_bins",
    "format_summary",
    "holm",
    "lesion_wise",
    "per_image_scores",
    "pooled_dice_iou",
    "read_per_image",
    "weighted_interval",
    "wilcoxon_holm",
    "write_scores",
]
