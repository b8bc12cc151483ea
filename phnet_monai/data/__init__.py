"""Records -> datalist -> datasets -> loaders."""

from __future__ import annotations

from phnet_monai.data.added_outlines import add_outlines
from phnet_monai.data.audit_dataset import audit
from phnet_monai.data.audit_listing import find_layout
from phnet_monai.data.audit_report import CHECKS, Audit, Finding, audit_text
from phnet_monai.data.burned_in_marks import colour_share, find_marks
from phnet_monai.data.datalist import load_datalist, load_meta, load_part, summary, write_datalist
from phnet_monai.data.decode import IMAGE_SUFFIXES, DecodeError, read_image, read_mask
from phnet_monai.data.leaks import LeakError, check_leaks, find_leaks, refuse_leaks
from phnet_monai.data.near_duplicates import near_duplicate_groups, near_duplicate_pairs
from phnet_monai.data.neighbours import images_beside
from phnet_monai.data.phantom import make_phantom, write_phantoms
from phnet_monai.data.prepare import prepare_busbra, prepare_busi, prepare_folder
from phnet_monai.data.records import Record
from phnet_monai.data.splits import make_splits

__all__ = [
    "CHECKS",
    "IMAGE_SUFFIXES",
    "Audit",
    "DecodeError",
    "Finding",
    "LeakError",
    "Record",
    "add_outlines",
    "audit",
    "audit_text",
    "check_leaks",
    "colour_share",
    "find_layout",
    "find_leaks",
    "find_marks",
    "images_beside",
    "load_datalist",
    "load_meta",
    "load_part",
    "make_phantom",
    "make_splits",
    "near_duplicate_groups",
    "near_duplicate_pairs",
    "prepare_busbra",
    "prepare_busi",
    "prepare_folder",
    "read_image",
    "read_mask",
    "refuse_leaks",
    "summary",
    "write_datalist",
    "write_phantoms",
]
