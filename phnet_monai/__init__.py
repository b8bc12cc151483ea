"""PH-Net (CVPR 2024) on MONAI: semi-supervised breast-ultrasound lesion segmentation by patch-wise hardness."""

__version__ = "0.1.0"
