"""Where the files lie that come with the package."""

from __future__ import annotations

from pathlib import Path


def bundle_folder() -> Path:
    """The bundle: inside the installed package (wheel), or beside it (checkout, editable install).

    Raises:
        FileNotFoundError: this installation has none.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "bundle", package.parent / "bundle"):
        if (folder / "configs" / "train.json").is_file():
            return folder
    raise FileNotFoundError(f"no bundle with configs/train.json in {package} or beside it; reinstall phnet-monai")
