"""Transforms: fitting to the network's size, weak and strong views, the patch grid with hardness and mixing, boxes."""

from phnet_monai.transforms.boxes import draw_aspect_box, draw_beta_box, draw_keep_box, draw_side_box, paste
from phnet_monai.transforms.fit import fit_batch, fit_image, unfit_batch, unfit_probs
from phnet_monai.transforms.patches import (
    draw_keep_mask,
    expand_patches,
    hardest_patches,
    mix_patches,
    patch_all,
    patch_hardness,
    patch_mean,
    shielded_patch_count,
    shielded_patches,
)
from phnet_monai.transforms.strong_view import OPERATIONS, StrongView
from phnet_monai.transforms.weak_view import WeakView

__all__ = [
    "OPERATIONS",
    "StrongView",
    "WeakView",
    "draw_aspect_box",
    "draw_beta_box",
    "draw_keep_box",
    "draw_keep_mask",
    "draw_side_box",
    "expand_patches",
    "fit_batch",
    "fit_image",
    "hardest_patches",
    "mix_patches",
    "paste",
    "patch_all",
    "patch_hardness",
    "patch_mean",
    "shielded_patch_count",
    "shielded_patches",
    "unfit_batch",
    "unfit_probs",
]
