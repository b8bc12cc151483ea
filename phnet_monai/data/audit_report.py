"""What an audit found, as data, as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Weight = Literal["refused", "look", "note"]


class Check(NamedTuple):
    """A kind of finding.

    Attributes:
        title: what it is called.
        weight: "refused": `phnet prepare` or `phnet train` refuses such data; "look": somebody should look; "note":
            good to know.
        advice: what it means and what to do.
    """

    title: str
    weight: Weight
    advice: str


CHECKS: dict[str, Check] = {
    "broken": Check("broken files", "refused", "Copy them again, convert them, or take them out."),
    "orphan-masks": Check("masks without image", "refused", "Add the images, or remove the masks."),
    "several-masks": Check("more than one mask", "refused", "Keep one mask or annotation an image."),
    "layout": Check("does not fit together", "refused", "Mend what the line says."),
    "size-mismatch": Check("mask and image differ in size", "refused", "Export the mask anew at the image's size."),
    "leak": Check(
        "one scan on two sides of the split",
        "refused",
        "Scores would be too high: prepare the data anew (grouped).",
    ),
    "leak-allowed": Check(
        "one scan on two sides of the split, allowed", "look", "Scores on this split are too high; say so with them."
    ),
    "duplicates-across-classes": Check(
        "near-duplicates in two classes", "look", "One of the classes is wrong, or the scan shows two lesions."
    ),
    "duplicates": Check("near-duplicates", "look", "Keep them on one side of a split, as phnet prepare does."),
    "mask-values": Check(
        "masks with more than two values", "look", "Numbered regions or JPEG noise? Save masks as PNG with 0 and 255."
    ),
    "anti-aliased": Check("anti-aliased masks", "note", "Grey edges are read as lesion from half of the brightest on."),
    "empty-masks": Check("empty masks", "look", "Right for an image without lesion; else the outline is missing."),
    "full-masks": Check("masks that cover the image", "look", "Inverted, or an image in place of its mask?"),
    "inverted-masks": Check("inverted masks", "look", "Lesions are bright, all else is dark: invert them if they are."),
    "normal-with-lesion": Check("normal images with a lesion", "look", "Class or mask is wrong."),
    "specks": Check("specks in masks", "look", "Slips of the pen; they count as lesions in lesion-wise scores."),
    "extra-masks": Check("further masks that add nothing", "look", "The same outline twice; remove one."),
    "no-mask": Check("images without mask", "note", "They count as unlabeled."),
    "blank": Check("blank images", "look", "Nothing to learn from; take them out."),
    "marks": Check(
        "burned-in marks", "look", "Calipers and text give the lesion away; see docs/audit.md for how sure this is."
    ),
    "corner-marks": Check("symbols in a corner", "note", "Of the scanner; they tell machines apart, not lesions."),
    "colour": Check("colour", "look", "Doppler or coloured marks; they are read as grey."),
    "borders": Check("one-coloured borders", "note", "They cost resolution and may tell where an image is from."),
    "sizes": Check("extreme sizes", "look", "Another kind of picture, or a crop of one?"),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        check: a key of `CHECKS`.
        files: names relative to the audit's root; of a group of near-duplicates all members.
        text: what was found, without the names.
        data: the same for programs: numbers, classes, parts.
    """

    check: str
    files: tuple[str, ...]
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Audit:
    """All that was found in a dataset.

    Attributes:
        source: the dataset's folder, or the datalist; root: the folder that names of files are relative to.
        layout: busi, busbra, folder or datalist.
        images, masks: numbers of files; classes, parts: images of each (without name: "-").
        findings: in the order of `CHECKS`.
        near_misses: pairs just below the threshold of near-duplicates, best first; where asked for.
    """

    source: str
    root: str
    layout: str
    images: int
    masks: int
    classes: Mapping[str, int]
    parts: Mapping[str, int]
    findings: tuple[Finding, ...]
    near_misses: tuple[Finding, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether anything was found that `phnet prepare` or `phnet train` refuses."""
        return any(CHECKS[finding.check].weight == "refused" for finding in self.findings)

    def of(self, check: str) -> list[Finding]:
        """Findings of one kind."""
        return [finding for finding in self.findings if finding.check == check]

    def as_data(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "root": self.root,
            "layout": self.layout,
            "images": self.images,
            "masks": self.masks,
            "classes": dict(self.classes),
            "parts": dict(self.parts),
            "refused": self.refused,
            "checks": {name: {**check._asdict(), "count": len(self.of(name))} for name, check in CHECKS.items()},
            "findings": [_finding_data(finding) for finding in self.findings],
            "near_misses": [_finding_data(finding) for finding in self.near_misses],
        }


def _finding_data(finding: Finding) -> dict[str, Any]:
    return {"check": finding.check, "files": list(finding.files), "text": finding.text, **finding.data}


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings in the order of `CHECKS`, those of one check as they come."""
    places = {name: place for place, name in enumerate(CHECKS)}
    return tuple(sorted(findings, key=lambda finding: places[finding.check]))


def audit_text(audit: Audit, *, limit: int = 5) -> str:
    """The report as plain text.

    Args:
        limit: how many findings of a kind are named; 0: all.
    """
    counts = ", ".join(f"{count} {name}" for name, count in {**audit.classes, **audit.parts}.items() if name != "-")
    what = f"{audit.layout}: {counts}" if counts else audit.layout
    lines = [f"{audit.source}: {audit.images} images, {audit.masks} masks ({what})"]
    for name, check in CHECKS.items():
        found = audit.of(name)
        if not found:
            continue
        mark = {"refused": "!", "look": "-", "note": " "}[check.weight]
        lines.append(f"\n{mark} {len(found)} x {check.title}. {check.advice}")
        shown = found[:limit] if limit else found
        lines += [f"    {', '.join(finding.files)}{': ' * bool(finding.files)}{finding.text}" for finding in shown]
        if len(shown) < len(found):
            lines.append(f"    ... and {len(found) - len(shown)} more")
    if len(lines) == 1:
        lines.append("\nNothing was found.")
    elif audit.refused:
        lines.append("\nWhat is marked with ! is refused by phnet prepare or phnet train.")
    return "\n".join(lines)
