"""Records -> datalist -> datasets -> loaders."""

from __future__ import annotations

from phnet_monai.data.datalist import load_datalist, load_meta, load_part, summary, write_datalist
from phnet_monai.data.decode import IMAGE_SUFFIXES, DecodeError, read_image, read_mask
from phnet_monai.data.near_duplicates import near_duplicate_groups
from phnet_monai.data.neighbours import images_beside
from phnet_monai.data.phantom import make_phantom, write_phantoms
from phnet_monai.data.prepare import prepare_busbra, prepare_busi, prepare_folder
from phnet_monai.data.records import Record
from phnet_monai.data.splits import make_splits

__all__ = [
    "IMAGE_SUFFIXES",
    "DecodeError",
    "Record",
    "images_beside",
    "load_datalist",
    "load_meta",
    "load_part",
    "make_phantom",
    "make_splits",
    "near_duplicate_groups",
    "prepare_busbra",
    "prepare_busi",
    "prepare_folder",
    "read_image",
    "read_mask",
    "summary",
    "write_datalist",
    "write_phantoms",
]
