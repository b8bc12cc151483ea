"""Serve the bundle by MONAI Label's own app, without a network: infer on phantoms, train on them, infer again.

    python scripts/package_bundle.py dist --label
    PYTHON_WITH_MONAILABEL scripts/check_monailabel.py dist/breast_ultrasound_phnet_segmentation_label_v*.zip

MONAI Label 0.8 pins older versions of numpy and jsonschema than this project needs, so it gets an environment of its
own (docs/serving.md). It runs as its server does: the app `monaibundle`, the bundle in its `model` folder, a study
folder of pictures of which some are outlined. Checked are the label names, the masks (against `Predictor`), that a
training writes the served model, sees the unlabeled pictures, and can be repeated.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# the app would watch its study while this script removes it
os.environ.setdefault("MONAI_LABEL_DATASTORE_AUTO_RELOAD", "false")

import numpy as np
from PIL import Image

from phnet_monai.data import read_image, write_phantoms
from phnet_monai.files import sha256_of
from phnet_monai.inference import Predictor
from phnet_monai.inference.zipped import unzip

PHANTOMS, OUTLINED = 12, 6
EXTRA = ".png"


def unpack(bundle: Path, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unzip(bundle, folder)
    (found,) = [path for path in folder.iterdir() if path.is_dir()]
    return found


def study(folder: Path) -> Path:
    """Pictures as MONAI Label's local datastore keeps them; final labels of the first few."""
    made = write_phantoms(folder / "made", PHANTOMS, size_range=(120, 200))
    images, labels = folder / "study", folder / "study" / "labels" / "final"
    labels.mkdir(parents=True)
    for number, path in enumerate(sorted((made / "images").iterdir())):
        shutil.copy(path, images / path.name)
        if number < OUTLINED:
            mask = next(mask for mask in (made / "masks").iterdir() if mask.stem.startswith(path.stem))
            shutil.copy(mask, labels / f"{path.stem}{EXTRA}")
    return images


def app(folder: Path, name: str, images: Path) -> Any:
    """The app `monaibundle` with the bundle as its only model."""
    origin = Path(sys.prefix) / "monailabel" / "sample-apps" / "monaibundle"
    if not origin.is_dir():
        raise SystemExit(f"{origin}: not found; run this by the Python of an environment with monailabel")
    shutil.copytree(origin, folder / "app", dirs_exist_ok=True)
    sys.path.insert(0, str(folder / "app"))
    main = importlib.import_module("main")
    # any other source than its default asks a server for the list of the model zoo
    conf = {"models": name, "preload": "false", "zoo_source": "local", "sam2": "false", "auto_update_scoring": "false"}
    return main.MyApp(str(folder / "app"), str(images), conf)


def infer(server: Any, name: str, image: Path) -> np.ndarray:
    """Mask as the server writes it: bool (H, W)."""
    answer = server.infer({"model": name, "image": image.stem, "device": "cpu", "result_extension": EXTRA})
    assert answer["params"]["label_names"] == {"lesion": 1}, answer["params"]
    with Image.open(answer["file"]) as mask:
        return np.asarray(mask)


def check_masks(server: Any, name: str, images: Path, model: Path) -> None:
    predictor = Predictor.from_model(model, "cpu", channels_last=False)
    lesion = 0
    for path in sorted(images.glob("*.png")):
        found, image = infer(server, name, path), read_image(path)
        expected = predictor.predict([image])[0] > 0.5
        assert found.shape == image.shape, (path, found.shape, image.shape)
        assert set(np.unique(found)) <= {0, 1}, (path, np.unique(found))
        differ = float((found.astype(bool) != expected).mean())
        assert differ < 1e-4, (path, differ)
        lesion += int(expected.sum())
    assert lesion, "all masks are empty, which compares nothing"
    print(f"ok: masks of {len(list(images.glob('*.png')))} pictures ({lesion} lesion pixels) are those of Predictor")


def check_training(server: Any, name: str, bundle: Path, number: int) -> None:
    model, before = bundle / "models" / "model.pt", sha256_of(bundle / "models" / "model.pt")
    request = {"model": name, "device": "cpu", "max_epochs": 2, "val_split": 0.34, "pretrained": True}
    server.train({**request, "multi_gpu": False, "tracking": "None"})
    assert sha256_of(model) != before, "the training left the served model as it was"
    rows = [json.loads(line) for line in (bundle / "runs" / "phnet" / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2], rows
    assert all(row["train"]["loss_unlabeled"] >= 0 and row["validation"] for row in rows), rows
    earlier = sorted(path.name for path in (bundle / "runs" / "phnet").glob("earlier/*"))
    assert earlier == [str(place) for place in range(1, number)], earlier
    score = rows[-1]["validation"]["pooled_dice"]
    print(f"ok: training {number}, validation Dice {score:.3f}, served model replaced")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="zip of `package_bundle.py --label`")
    parser.add_argument("--work", type=Path, help="keep everything in this folder; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.work or Path(temporary)).resolve()
        bundle = unpack(args.bundle, folder / "app" / "model")
        images = study(folder)
        server = app(folder, bundle.name, images)
        check_masks(server, bundle.name, images, bundle)
        for number in (1, 2):
            check_training(server, bundle.name, bundle, number)
        check_masks(server, bundle.name, images, bundle)


if __name__ == "__main__":
    main()
