"""Everything that is wrong with a dataset, found before anybody trains on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from phnet_monai.data.annotations import draw_mask
from phnet_monai.data.audit_checks import adds_nothing, is_blank, looks_inverted, mask_kind, odd_sizes, specks
from phnet_monai.data.audit_listing import Item, Listing, list_dataset
from phnet_monai.data.audit_report import Audit, Finding, in_order
from phnet_monai.data.borders import border_widths
from phnet_monai.data.burned_in_marks import COLOUR_SHARE, colour_share, find_marks
from phnet_monai.data.busi import NORMAL_CLASS
from phnet_monai.data.decode import DecodeError, binarise, read_colours, read_image, read_values
from phnet_monai.data.leaks import same_files
from phnet_monai.data.near_duplicates import Fingerprint, Likeness, fingerprint, near_duplicate_pairs
from phnet_monai.data.splits import SIDES
from phnet_monai.data.union_find import components

NEAR_MISS = 0.06
"""How far below its threshold the similarity of a pair may be for it to be shown as a near miss."""

_MASK_KINDS = {
    "empty": ("empty-masks", "no pixel is set"),
    "full": ("full-masks", "every pixel counts as lesion"),
    "anti-aliased": ("anti-aliased", "grey values along the edges"),
    "many values": ("mask-values", "more than two values"),
}


def audit(
    source: str | PathLike[str],
    *,
    layout: str = "auto",
    masks: str | PathLike[str] | None = None,
    near_misses: bool = False,
    progress: bool = True,
) -> Audit:
    """Look through a dataset for near-duplicates, leaks and flaws of images and masks; nothing is changed.

    Every file is read once; what is kept of an image are 16 kB. 702 images take less than a minute on one core.

    Args:
        source: BUSI, BUS-BRA, a folder of images with or without masks, or a datalist (the file or its folder), whose
            parts are then compared, too.
        layout: "busi", "busbra", "folder" or "datalist"; "auto" looks what lies there.
        masks: folder of masks or annotation files, for the layout "folder".
        near_misses: also list the pairs whose similarity lies up to 0.06 below the threshold.
        progress: show progress bars on standard error.

    Returns:
        the findings, see `Audit`; `CHECKS` in `audit_report` says what each means. Without any image, `images` is 0.

    Raises:
        FileNotFoundError, ValueError: the source is of none of the layouts; a broken image or mask is a finding.
    """
    listing = list_dataset(source, layout=layout, masks=masks)
    looked = [
        _look(item, listing)
        for item in tqdm(listing.items, desc="looking", disable=None if progress else True, leave=False)
    ]
    found = [*_listed(listing), *(finding for one in looked for finding in one.findings)]
    whole = [(item, one.mark) for item, one in zip(listing.items, looked, strict=True) if one.mark is not None]
    items, marks = [item for item, _ in whole], [mark for _, mark in whole]
    found += [
        Finding("sizes", (listing.shown(items[place].image),), text)
        for place, text in odd_sizes([mark.size for mark in marks]).items()
    ]
    paths = [item.image for item in items]
    margin = NEAR_MISS if near_misses else 0.0
    pairs = near_duplicate_pairs(paths, margin=margin, fingerprints=marks, progress=progress)
    copies = [Likeness(one, other, 1.0, 1.0, "frame") for one, other in same_files(paths)]
    found += _group_findings(listing, items, [pair for pair in pairs if pair.same] + copies)
    missed = sorted((pair for pair in pairs if not pair.same), key=lambda pair: pair.threshold - pair.similarity)
    return Audit(
        source=str(listing.source),
        root=str(listing.root),
        layout=listing.layout,
        images=len(listing.items),
        masks=sum(len(item.masks) for item in listing.items) + len(listing.orphans) + len(listing.annotated),
        classes=Counter(item.class_name or "-" for item in listing.items),
        parts=Counter(item.part or "-" for item in listing.items),
        findings=in_order(found),
        near_misses=tuple(_pair_finding(listing, items, pair) for pair in missed),
    )


class _Looked(NamedTuple):
    """Findings of one image and its masks, and what its near-duplicates are found by (None: it cannot be read)."""

    findings: list[Finding]
    mark: Fingerprint | None


def _listed(listing: Listing) -> Iterator[Finding]:
    """What the listing tells without any picture."""
    yield from (Finding("orphan-masks", (name,), "no image of this name") for name in listing.orphans)
    for image, names in listing.doubles:
        yield Finding("several-masks", (listing.shown(image),), ", ".join(names), {"masks": names})
    yield from (Finding("layout", (), text) for text in listing.mismatches)
    for item in listing.items:
        if not item.masks and item.image not in listing.annotated:
            yield Finding("no-mask", (listing.shown(item.image),), "no mask")


def _look(item: Item, listing: Listing) -> _Looked:
    name = listing.shown(item.image)
    try:
        image = read_image(item.image)
    except (DecodeError, OSError) as error:
        return _Looked([Finding("broken", (name,), _reason(error)), *_mask_findings(item, listing, None)], None)
    found = [Finding(check, (name,), text, data) for check, text, data in _image_flaws(item, image)]
    found += _mask_findings(item, listing, (image.shape[0], image.shape[1]))
    found += _annotation_findings(item, listing, (image.shape[0], image.shape[1]))
    return _Looked(found, fingerprint(image))


def _reason(error: Exception) -> str:
    """Why a file cannot be read; a link that leads nowhere is a broken file, too."""
    return f"cannot be opened ({error.strerror})" if isinstance(error, OSError) and error.strerror else str(error)


def _image_flaws(item: Item, image: np.ndarray) -> Iterator[tuple[str, str, dict]]:
    """(check, text, data) of what is found in the picture."""
    if is_blank(image):
        yield "blank", f"grey {int(image.min())} to {int(image.max())} only", {}
    marks = find_marks(image)
    inside = [mark for mark in marks if mark.place == "scan"]
    for check, chosen in (("marks", inside), ("corner-marks", [] if inside else marks)):
        if chosen:
            text = f"{len(chosen)}, the first at column {chosen[0].left}, row {chosen[0].top}"
            yield check, text, {"boxes": [list(mark[:4]) for mark in chosen]}
    colours = read_colours(item.image)
    share = 0.0 if colours is None else colour_share(colours)
    if share >= COLOUR_SHARE:
        yield "colour", f"{100 * share:.2g} % of the pixels", {"share": round(share, 6)}
    borders = border_widths(image)
    if borders:
        yield "borders", ", ".join(f"{side} {width} px" for side, width in borders.items()), {"borders": borders}


def _mask_findings(item: Item, listing: Listing, size: tuple[int, int] | None) -> list[Finding]:
    """Findings of the masks of one image of that size (None: unknown)."""
    found, regions = [], []
    for path in item.masks:
        name = listing.shown(path)
        try:
            values = read_values(path)
        except (DecodeError, OSError) as error:
            found.append(Finding("broken", (name,), _reason(error)))
            continue
        if size is not None and values.shape != size:
            text = f"{values.shape[1]} x {values.shape[0]}, its image is {size[1]} x {size[0]}"
            found.append(Finding("size-mismatch", (name,), text))
            continue
        region = binarise(values)
        kind = "full" if region.all() else mask_kind(values)
        if looks_inverted(region):
            found.append(Finding("inverted-masks", (name,), "most of the border is set"))
        if kind in _MASK_KINDS and not (kind == "empty" and item.class_name == NORMAL_CLASS):
            check, text = _MASK_KINDS[kind]
            found.append(Finding(check, (name,), text))
        regions.append((name, region))
    return found + _outline_findings(item, listing, regions)


def _annotation_findings(item: Item, listing: Listing, size: tuple[int, int]) -> list[Finding]:
    """Findings of outlines that stand in an annotation file; those that do not fit the image are listed already."""
    annotation = listing.annotated.get(item.image)
    if annotation is None or annotation.size not in (None, size):
        return []
    name, where = listing.shown(item.image), listing.shown(annotation.source)
    region = draw_mask(annotation.shapes, size)
    flaws = {
        "empty-masks": not annotation.shapes and f"no outline in {where}",  # those that cover nothing are listed, too
        "full-masks": region.all() and f"all of it is outlined in {where}",
        "inverted-masks": looks_inverted(region) and f"most of the border is outlined in {where}",
    }
    found = [Finding(check, (name,), text) for check, text in flaws.items() if text]
    return found + _outline_findings(item, listing, [(name, region)])


def _outline_findings(item: Item, listing: Listing, regions: Sequence[tuple[str, np.ndarray]]) -> list[Finding]:
    """Findings of the outlines themselves: specks of their union, masks that add nothing, a lesion where none is."""
    regions = [(name, region) for name, region in regions if region.shape == regions[0][1].shape]
    if not regions:
        return []
    found, union = [], np.logical_or.reduce([region for _, region in regions])
    small = specks(union)
    if small:
        names = tuple(name for name, _ in regions)
        sizes = [speck.area for speck in small]
        data = {"sizes": sizes, "boxes": [list(speck[1:]) for speck in small]}
        found.append(Finding("specks", names, f"{len(small)}, of {', '.join(map(str, sizes[:5]))} px", data))
    if union.any() and item.class_name == NORMAL_CLASS:
        found.append(Finding("normal-with-lesion", (listing.shown(item.image),), f"{int(union.sum())} px are set"))
    before = np.zeros_like(union)
    for place, (name, region) in enumerate(regions):
        if place and region.any() and adds_nothing(region, before):
            found.append(Finding("extra-masks", (name,), "no pixel that the masks before it lack"))
        before |= region
    return found


def _group_findings(listing: Listing, items: Sequence[Item], pairs: Sequence[Likeness]) -> list[Finding]:
    """Leaks of a datalist, and groups of near-duplicates: across sides, across classes, or neither."""
    leak = "leak" if listing.leak_allowed is None else "leak-allowed"
    allowed = f" (allowed by {listing.leak_allowed})" if listing.leak_allowed else ""
    found, told = [], []
    for one in listing.leaks:
        images = [image for _, image in one.members]
        data = {"kind": one.kind, "name": one.name, "parts": [part for part, _ in one.members]}
        found.append(Finding(leak, tuple(_shown(listing, images)), f"{one.text}{allowed}", data))
        told.append(set(images))
    numbers = components(len(items), [(pair.one, pair.other) for pair in pairs])
    sizes = Counter(numbers)
    for number, size in sizes.items():
        if size == 1:
            continue
        members = [place for place, own in enumerate(numbers) if own == number]
        group = [items[place] for place in members]
        text, data = _group_text(listing, group, [pair for pair in pairs if numbers[pair.one] == number], items)
        files = tuple(listing.shown(item.image) for item in group)
        across = [item for item in group if len({SIDES.get(i.part or "", "") for i in group}) > 1]
        classes = len({item.class_name for item in group if item.class_name}) > 1
        if across and not any({str(item.image) for item in across} <= known for known in told):
            found.append(Finding(leak, files, f"near-duplicates{allowed}: {text}", data))
        if classes:
            found.append(Finding("duplicates-across-classes", files, text, data))
        if not classes and not across:
            found.append(Finding("duplicates", files, text, data))
    return found


def _group_text(
    listing: Listing, group: Sequence[Item], pairs: Sequence[Likeness], items: Sequence[Item]
) -> tuple[str, dict]:
    kinds = [sorted({getattr(item, name) or "" for item in group} - {""}) for name in ("class_name", "part")]
    patients = {item.group_id for item in group if item.group_id}
    least = min(pair.similarity for pair in pairs)
    words = [*(", ".join(kind) for kind in kinds if kind), f"similarity from {least:.2f}"]
    if listing.layout == "busbra" and len(patients) > 1:
        words.append(f"{len(patients)} patients")
    data = {
        "classes": [item.class_name for item in group],
        "parts": [item.part for item in group],
        "pairs": [_pair_data(listing, items, pair) for pair in pairs],
    }
    return "; ".join(words), data


def _pair_finding(listing: Listing, items: Sequence[Item], pair: Likeness) -> Finding:
    data = _pair_data(listing, items, pair)
    text = f"similarity {pair.similarity:.3f}, {pair.threshold:.2f} is needed ({pair.how})"
    return Finding("duplicates", tuple(data["files"]), text, {**data, "threshold": pair.threshold})


def _pair_data(listing: Listing, items: Sequence[Item], pair: Likeness) -> dict:
    files = [listing.shown(items[place].image) for place in (pair.one, pair.other)]
    return {"files": files, "similarity": round(pair.similarity, 4), "how": pair.how}


def _shown(listing: Listing, files: Sequence[str]) -> list[str]:
    return [listing.shown(Path(file)) for file in files]
