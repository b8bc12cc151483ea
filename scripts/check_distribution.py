"""What is distributed works alone: the wheel and the bundle's zip in an environment without the checkout.

    python scripts/check_distribution.py dist/*.whl dist/breast_ultrasound_phnet_segmentation_v*.zip
    python scripts/check_distribution.py dist/*.whl dist/*_v*.zip --install

Makes a virtual environment, installs the wheel, unpacks the zip elsewhere, and in a folder of its own runs
`python -m monai.bundle run --config_file .../inference.json` on phantoms of several sizes, then `phnet infer` with the
model of the wheel. Both must write the same masks. `--install` downloads the dependencies as a user would; without it
those of the present environment are used (scripts/setup_env.sh), never its phnet-monai.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from phnet_monai.data import make_phantom
from phnet_monai.inference.zipped import ArchiveError, unzip
from phnet_monai.networks.description import CheckpointError
from phnet_monai.networks.digests import check_digest, read_digests

SIZES = ((120, 180), (160, 160), (301, 200), (90, 77))
LINK = "_phnet_dependencies.pth"
DIFFERENT = 1e-4
"""Share of pixels that may differ: the command keeps images in another memory layout, which rounds differently."""


class CheckError(RuntimeError):
    """The distribution does not work; the message says what failed."""


def dependencies() -> Path:
    """Folder of the present environment's dependencies, without phnet-monai."""
    link = Path(sysconfig.get_path("purelib")) / LINK
    if not link.is_file():
        raise CheckError(f"{link}: not found; this environment was not made by `make env`. Use --install")
    return Path(link.read_text(encoding="utf-8").strip())


def call(words: Sequence[str | Path], cwd: Path) -> str:
    """Output of a command that knows nothing of the present environment."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckError(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def environment(folder: Path, wheel: Path, *, install: bool) -> Path:
    """The Python of a new environment with the wheel."""
    call([sys.executable, "-m", "venv", folder], folder.parent)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / "python"
    if not install:
        site = call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip()
        (Path(site) / LINK).write_text(f"{dependencies()}\n", encoding="utf-8")
    limits = [] if install else ["--no-deps", "--no-index"]
    call([python, "-m", "pip", "install", "--quiet", *limits, wheel.resolve()], folder)
    found = call([python, "-c", "import phnet_monai; print(phnet_monai.__file__)"], folder).strip()
    if not Path(found).resolve().is_relative_to(folder.resolve()):
        raise CheckError(f"phnet_monai comes from {found}, expected from the wheel in {folder}")
    return python


def unpack(bundle: Path, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unzip(bundle, folder)
    (found,) = folder.iterdir()
    return found


def phantoms(folder: Path) -> list[Path]:
    folder.mkdir()
    for number, size in enumerate(SIZES):
        Image.fromarray(make_phantom(size, seed=number)[0]).save(folder / f"scan {number}.png")
    return sorted(folder.iterdir())


def compare(images: Sequence[Path], by_monai: Path, by_command: Path) -> int:
    """Pixels of lesion in all masks, once they are known to be the same."""
    lesion = 0
    for image in images:
        paths = by_monai / f"{image.stem}_mask.png", by_command / "masks" / f"{image.stem}.png"
        for path in paths:
            if not path.is_file():
                raise CheckError(f"{path}: was not written")
        first, second = (np.asarray(Image.open(path)) > 0 for path in paths)
        differ = (first != second).mean() if first.shape == second.shape else 1.0
        if differ > DIFFERENT:
            raise CheckError(f"{paths[0]} and {paths[1]} differ in {100 * differ:.2f} % of the pixels")
        lesion += int(first.sum())
    if lesion == 0:
        raise CheckError(f"{by_monai}: all masks are empty, which compares nothing")
    return lesion


def check(wheel: Path, bundle: Path, folder: Path, *, install: bool = False) -> int:
    """All of it in `folder`; the number of lesion pixels in the masks.

    Raises:
        CheckError: something does not work.
    """
    python = environment(folder / "environment", wheel, install=install)
    root, elsewhere = unpack(bundle, folder / "unpacked"), folder / "elsewhere"
    for name in read_digests(root / "models"):
        check_digest(root / "models" / name)
    elsewhere.mkdir()
    images = phantoms(folder / "images")
    config = root / "configs" / "inference.json"
    common = ["--dataset_dir", images[0].parent, "--device", "cpu"]
    words = [python, "-m", "monai.bundle", "run", "--config_file", config, "--bundle_root", root]
    call([*words, "--output_dir", folder / "by_monai", *common], elsewhere)
    words = [python, "-m", "phnet_monai", "infer", images[0].parent, folder / "by_command", "--model", root]
    call([*words, "--device", "cpu", "--quiet"], elsewhere)
    left = [path.name for path in elsewhere.iterdir()]
    if left:
        raise CheckError(f"{elsewhere}: the runs left {', '.join(left)} in the folder that they were started in")
    return compare(images, folder / "by_monai", folder / "by_command")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("bundle", type=Path, help="zip of package_bundle.py")
    parser.add_argument("--install", action="store_true", help="install the dependencies too (gigabytes)")
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        try:
            lesion = check(args.wheel, args.bundle, Path(folder), install=args.install)
        except (CheckError, CheckpointError, ArchiveError, OSError) as error:
            print(f"check_distribution: {error}", file=sys.stderr)
            return 2
    print(f"ok: {args.wheel.name} and {args.bundle.name} write the same {len(SIZES)} masks ({lesion} lesion pixels)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
