"""PH-Net (CVPR 2024) on MONAI: semi-supervised breast-ultrasound lesion segmentation by patch-wise hardness."""

__version__ = "0.1.0"


def default_device() -> str:
    """`cuda` where a GPU is usable, else `cpu` (imports torch only when called, so that `phnet --help` stays quick)."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
