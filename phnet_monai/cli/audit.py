"""`phnet audit`: what is wrong with a dataset."""

from __future__ import annotations

from typing import Literal


def audit(
    source: str,
    out: str | None = None,
    *,
    layout: Literal["auto", "busi", "busbra", "folder", "datalist"] = "auto",
    masks: str | None = None,
    near_misses: bool = False,
    pictures: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Look through a dataset or a datalist for near-duplicates, leaks and flaws of images and masks.

    Prints what was found. With OUT also writes audit.html (pictures of what was found, one file), audit.txt and
    audit.json there. Nothing of the dataset is changed. Exit code: 0 nothing that `phnet prepare` or `phnet train`
    refuses; 2 wrong arguments; 3 something that they refuse (broken files, masks without image or of another size, one
    scan on two sides of the split); 4 no image found.

    Args:
        source: BUSI, BUS-BRA, folder with images/ and masks/, folder of images, or datalist
        out: folder for the report
        layout: of the source; auto looks
        masks: folder of masks or annotations, for the layout folder
        near_misses: also show pairs that are just not alike enough to count as near-duplicates
        pictures: show pictures in audit.html; without, it can be handed on where the images may not
        overwrite: replace a report that is there
        quiet: no progress bars
    """
    import sys
    from pathlib import Path

    from phnet_monai.files import atomic_writer, check_out, terminal_lines, write_json

    if out is not None:
        check_out(out)
        there = [name for name in ("audit.html", "audit.txt", "audit.json") if (Path(out) / name).exists()]
        if there and not overwrite:
            raise FileExistsError(f"{Path(out) / there[0]} exists; choose another folder, or --overwrite")

    from phnet_monai.data import audit as audit_dataset
    from phnet_monai.data import audit_text
    from phnet_monai.data.decode import IMAGE_SUFFIXES

    found = audit_dataset(source, layout=layout, masks=masks, near_misses=near_misses, progress=not quiet)
    if not found.images:
        kinds = ", ".join(IMAGE_SUFFIXES)
        print(f"phnet: nothing to do: {source} holds no image (files ending in {kinds})", file=sys.stderr)
        return 4
    if out is not None:  # before anything is printed: `phnet audit ... | head` must not cut the report short
        from phnet_monai.inference.audit_page import write_audit_page

        write_json(Path(out) / "audit.json", found.as_data())
        with atomic_writer(Path(out) / "audit.txt") as stream:
            # names that are no UTF-8 as the console shows them
            stream.write((terminal_lines(audit_text(found, limit=0)) + "\n").encode("utf-8", "backslashreplace"))
        write_audit_page(Path(out) / "audit.html", found, pictures=pictures)
    print(terminal_lines(audit_text(found)))
    if out is not None:
        print(f"\n{Path(out) / 'audit.html'}")
    return 3 if found.refused else 0
