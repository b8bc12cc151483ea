"""Weak views per second on one core: this project's loader against the same chain of stock MONAI transforms.

    python scripts/benchmark_loading.py [--folder IMAGES_AND_MASKS] [--size 160]

Both start from images decoded and cached in memory, give image, label and valid mask of `size` x `size`, and run in one
process with one thread. The baseline keeps MetaTensors, as MONAI's transforms do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.transforms import (
    Compose,
    CopyItemsd,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    RandFlipd,
    RandSpatialCropd,
    RandZoomd,
    Resized,
    ScaleIntensityRanged,
    SpatialPadd,
)

from phnet_monai.data import load_datalist, prepare_folder, write_phantoms
from phnet_monai.data.loaders import SemiSupervisedLoader, training_dataset
from phnet_monai.transforms import WeakView

KEYS = ["image", "label"]


def stock_chain(size: int) -> tuple[Compose, Compose]:
    """(cached part, random part) of the same view by stock transforms: fit, flip, zoom 0.5 to 2, pad, crop."""
    decode = Compose(
        [
            LoadImaged(KEYS, image_only=True),
            EnsureChannelFirstd(KEYS),
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0, clip=True),
            Resized(KEYS, 2 * size, size_mode="longest", mode=["bilinear", "nearest"], anti_aliasing=[True, False]),
            CopyItemsd("image", names="valid"),
            Lambdad("valid", torch.ones_like),
        ]
    )
    every = [*KEYS, "valid"]
    modes = ["bilinear", "nearest", "nearest"]
    augment = Compose(
        [
            RandFlipd(every, prob=0.5, spatial_axis=1),
            # the cached image is twice the fitted one, so zooms of 0.25 to 1 are scales of 0.5 to 2
            RandZoomd(every, prob=1.0, min_zoom=0.25, max_zoom=1.0, mode=modes, keep_size=False),
            SpatialPadd(every, (size, size)),
            RandSpatialCropd(every, (size, size), random_size=False),
        ]
    )
    return decode, augment


def views_per_second(iterable, images_per_batch: int, seconds: float) -> float:
    """Mean rate over about `seconds`, after one batch of warming up."""
    iterator = iter(iterable)
    next(iterator)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        try:
            next(iterator)
        except StopIteration:
            iterator = iter(iterable)
            next(iterator)
        count += images_per_batch
    return count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder with images/ and masks/; phantoms without it")
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or write_phantoms(Path(temporary) / "data", 64, seed=0, size_range=(400, 600))
        datalist = prepare_folder(folder, Path(temporary) / "list", labeled=40, progress=False)
        data = load_datalist(datalist)["labeled"]
        ours = SemiSupervisedLoader(
            training_dataset(data, args.size, 2.0), None, WeakView(args.size), batch_size=4, epoch_length=1000
        )
        decode, augment = stock_chain(args.size)
        cached = CacheDataset([{key: item[key] for key in KEYS} for item in data], decode, progress=False)
        np.random.seed(0)
        stock = DataLoader(Dataset(cached, augment), batch_size=4, shuffle=True, num_workers=0)
        rate, baseline = views_per_second(ours, 4, args.seconds), views_per_second(stock, 4, args.seconds)
    print(f"weak views of {args.size} x {args.size} per second and core, torch {torch.__version__}")
    print(f"  phnet-monai          {rate:8.1f}")
    print(f"  stock MONAI chain    {baseline:8.1f}")
    print(f"  ratio                {rate / baseline:8.2f}")


if __name__ == "__main__":
    main()
