"""Losses: masked cross-entropy and Dice, hard-patch contrast and its memory bank."""

from phnet_monai.losses.contrast import HardPatchContrastiveLoss, class_contrast
from phnet_monai.losses.masked import masked_cross_entropy
from phnet_monai.losses.masked_dice import masked_dice_loss
from phnet_monai.losses.memory_bank import MemoryBank

__all__ = [
    "HardPatchContrastiveLoss",
    "MemoryBank",
    "class_contrast",
    "masked_cross_entropy",
    "masked_dice_loss",
]
