"""Comparison: methods x fractions x seeds from one matrix, resumable, with tables, statistics and figures."""

from phnet_monai.comparison.layouts import dataset_name, find_layout
from phnet_monai.comparison.matrix import Matrix, MatrixError, Row, choose_matrix, read_comparison, read_matrix
from phnet_monai.comparison.report import write_report
from phnet_monai.comparison.run import compare

__all__ = [
    "Matrix",
    "MatrixError",
    "Row",
    "choose_matrix",
    "compare",
    "dataset_name",
    "find_layout",
    "read_comparison",
    "read_matrix",
    "write_report",
]
