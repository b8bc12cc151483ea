"""Losses: masked cross-entropy and Dice, contrasts of pixel features and their memory."""

from phnet_monai.losses.contrast import HardPatchContrastiveLoss, class_contrast
from phnet_monai.losses.masked import masked_cross_entropy
from phnet_monai.losses.masked_dice import masked_ce_dice_loss, masked_dice_loss
from phnet_monai.losses.memory_bank import MemoryBank
from phnet_monai.losses.mixed_patch_contrast import MixedPatchContrastiveLoss
from phnet_monai.losses.unreliable_contrast import UnreliableContrastiveLoss

__all__ = [
    "HardPatchContrastiveLoss",
    "MemoryBank",
    "MixedPatchContrastiveLoss",
    "UnreliableContrastiveLoss",
    "class_contrast",
    "masked_ce_dice_loss",
    "masked_cross_entropy",
    "masked_dice_loss",
]
