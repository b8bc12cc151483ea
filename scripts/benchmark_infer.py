"""Images per second of `phnet infer` against the bare network and against a loop of MONAI's stock parts, in one run.

    python scripts/benchmark_infer.py Dataset_BUSI_with_GT --rounds 3 --out docs/results/infer_speed.json
    python scripts/benchmark_infer.py Dataset_BUSI_with_GT --model model.onnx
    python scripts/benchmark_infer.py Dataset_BUSI_with_GT --profile paper --limit 32 --rounds 1 --ways network,infer
    python scripts/benchmark_infer.py Dataset_BUSI_with_GT --memory 5000
    python scripts/benchmark_infer.py Dataset_BUSI_with_GT --stages --limit 50

All use the same images and the same model (the shipped one, `--model`, or random weights of a profile's network), and
take turns, so that a machine that slows down slows all of them:

    network   forward passes of the network as it is loaded, on batches that lie ready in memory
    torch     the same of the shipped model by torch, where `--model` is an ONNX or TorchScript file of it
    infer     `infer_folder` as `phnet infer` calls it: reading, network, masks, overlays, measurements, tables, report
    masks     the same without overlays and report
    command   `phnet infer` as a process, from its start (libraries and model are loaded) to its end
    monai     LoadImaged, Resized, SpatialPadd, SupervisedEvaluator, Invertd, SaveImaged: masks only
    process   the same as a process, from its start to its end (`--stock OUT`)

Of ONNX and TorchScript files MONAI's parts are left out. `--stages` times the parts of `infer` one after the other on
one core. `--memory N` segments N images (the folder over and over, by links) and prints the peak memory along the way.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from phnet_monai.comparison.cells import machine
from phnet_monai.data import read_image
from phnet_monai.engines.run import compose, overlay
from phnet_monai.files import write_json
from phnet_monai.inference import FrameSettings, Predictor, draw_overlay, infer_folder
from phnet_monai.inference.frames import find_lesions
from phnet_monai.inference.models import WEIGHTS, LoadedModel, default_model, load_model, model_kind
from phnet_monai.inference.predictor import lesion_probs, restore
from phnet_monai.inference.writers import write_jpeg, write_mask
from phnet_monai.networks import PHNet
from phnet_monai.shipped import bundle_folder
from phnet_monai.transforms.fit import fit_image

BATCH = 16
SETTINGS = FrameSettings()


def pictures(source: Path) -> list[Path]:
    """Lesion images of BUSI (no masks), or all PNG files of another folder."""
    found = sorted(path for path in source.rglob("*.png") if "_mask" not in path.name)
    return [path for path in found if path.parent.name != "normal"]


def linked(images: list[Path], folder: Path, count: int | None = None) -> Path:
    """A folder of links to the images, the list over and over up to `count`."""
    folder.mkdir(parents=True)
    for index in range(count or len(images)):
        image = images[index % len(images)]
        (folder / f"{index:05d} {image.name}").symlink_to(image.resolve())
    return folder


def plain_model(model: Path) -> LoadedModel:
    """As it is loaded, in the layout that convolutions prefer, without what `Predictor` makes of it."""
    loaded = load_model(model, device="cpu")
    if isinstance(loaded.network, torch.nn.Module):
        loaded.network.eval().to(memory_format=torch.channels_last)
    return loaded


def bare_network(model: LoadedModel, images: list[Path]) -> Callable[[Path], None]:
    assert model.size is not None
    assert model.pad_value is not None
    fitted = torch.stack([fit_image(read_image(image), model.size, model.pad_value) for image in images])
    batches = [part.to(memory_format=torch.channels_last) for part in fitted.split(BATCH)]

    def run(out: Path) -> None:
        with torch.inference_mode():
            for batch in batches:
                model.network(batch)

    return run


def stock_loop(model: LoadedModel, folder: Path) -> Callable[[Path], None]:
    """What a user of MONAI would write."""
    from monai.data import DataLoader, Dataset, PILReader
    from monai.engines import SupervisedEvaluator
    from monai.transforms import (
        Activationsd,
        AsDiscreted,
        Compose,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        Resized,
        SaveImaged,
        ScaleIntensityRanged,
        SpatialPadd,
    )

    before = Compose(
        [
            LoadImaged("image", reader=PILReader(converter=lambda image: image.convert("L"))),
            EnsureChannelFirstd("image"),
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            Resized("image", model.size, size_mode="longest", mode="bilinear", anti_aliasing=True),
            SpatialPadd("image", (model.size, model.size), value=model.pad_value),
        ]
    )
    data = [{"image": str(path)} for path in sorted(folder.iterdir())]

    def run(out: Path) -> None:
        after = Compose(
            [
                Activationsd("pred", softmax=True),
                Invertd("pred", before, orig_keys="image", nearest_interp=False, to_tensor=True),
                AsDiscreted("pred", argmax=True),
                SaveImaged(
                    "pred",
                    output_dir=out,
                    output_ext=".png",
                    output_dtype="uint8",
                    scale=255,
                    resample=False,
                    separate_folder=False,
                    print_log=False,
                ),
            ]
        )
        loader = DataLoader(Dataset(data, before), batch_size=BATCH, num_workers=2)
        SupervisedEvaluator(
            device=torch.device("cpu"), val_data_loader=loader, network=model.network, postprocessing=after
        ).run()

    return run


def whole_command(folder: Path, model: Path) -> Callable[[Path], None]:
    def run(out: Path) -> None:
        command = [sys.executable, "-m", "phnet_monai", "infer", str(folder), str(out), "--model", str(model)]
        subprocess.run([*command, "--device", "cpu", "--quiet"], check=True, stdout=subprocess.DEVNULL)

    return run


def stock_process(source: Path, model: Path) -> Callable[[Path], None]:
    def run(out: Path) -> None:
        command = [sys.executable, __file__, str(source), "--stock", str(out), "--model", str(model)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    return run


def random_model(profile: str, folder: Path) -> Path:
    """A checkpoint of the profile's network with random weights."""
    config = compose(bundle_folder() / "configs" / "train.json", [overlay("profiles", profile)])
    arguments = {name: value for name, value in config["network_def"].items() if name != "_target_"}
    torch.manual_seed(0)
    network = PHNet(**{**arguments, "num_classes": 2, "in_channels": 1, "embedding_size": None, "weights": None})
    info = {"network": network.arguments, "input": {"size": config["size"], "pad_value": 0.33}}
    torch.save({"student": network.state_dict(), "info": info}, folder / f"{profile}.pt")
    return folder / f"{profile}.pt"


def speeds(images: list[Path], rounds: int, model: Path, only: list[str] | None) -> dict[str, Any]:
    """Images per second of each way (or of some only), median and range over the rounds."""
    predictor, plain = Predictor.from_model(model, "cpu", batch_size=BATCH), plain_model(model)
    with tempfile.TemporaryDirectory() as place:
        folder = linked(images, Path(place) / "in")
        ways = {
            "network": bare_network(plain, images),
            "infer": lambda out: infer_folder(folder, out, predictor, quiet=True),
            "masks": lambda out: infer_folder(folder, out, predictor, overlays=False, report=False, quiet=True),
            "command": whole_command(folder, model),
        }
        if model_kind(model) == WEIGHTS:
            ways |= {"monai": stock_loop(plain, folder), "process": stock_process(folder, model)}
        else:
            ways["torch"] = bare_network(plain_model(default_model()), images)
        ways = {name: run for name, run in ways.items() if only is None or name in only}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name, run in ways.items():
                begun = time.perf_counter()
                run(Path(place) / f"{name}{turn}")
                seconds[name].append(time.perf_counter() - begun)
                print(f"round {turn + 1}, {name}: {len(images) / seconds[name][-1]:.2f} images/s", file=sys.stderr)
    rates = {name: sorted(len(images) / value for value in values) for name, values in seconds.items()}
    return {name: {"median": statistics.median(r), "lowest": r[0], "highest": r[-1]} for name, r in rates.items()}


def stages(images: list[Path], model: Path) -> None:
    """Milliseconds per image of each part of `infer`, on one core."""
    torch.set_num_threads(1)
    predictor = Predictor.from_model(model, "cpu", batch_size=BATCH)
    assert predictor.size is not None
    assert predictor.pad_value is not None
    seconds: Counter[str] = Counter()

    def timed(name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = function(*arguments, **options)
        seconds[name] += time.perf_counter() - begun
        return result

    with tempfile.TemporaryDirectory() as place:
        predictor.predict([read_image(images[0])] * BATCH)  # the first call prepares kernels
        for start in range(0, len(images), BATCH):
            pixels = [timed("read", read_image, image) for image in images[start : start + BATCH]]
            fitted = [timed("fit", fit_image, one, predictor.size, predictor.pad_value) for one in pixels]
            batch = torch.stack(fitted).to(memory_format=torch.channels_last)
            with torch.inference_mode():
                probs = lesion_probs(timed("network", predictor.network, batch))
            for one, answer in zip(pixels, probs, strict=True):
                whole = timed("back to size", restore, answer, one.shape)
                frame = timed("measure, thumbnail", find_lesions, one, whole, number=1, spacing=None, settings=SETTINGS)
                drawn = timed("draw overlay", draw_overlay, one, frame.mask, whole)
                timed("write overlay", write_jpeg, Path(place) / "overlay.jpg", drawn)
                timed("write mask", write_mask, Path(place) / "mask.png", frame.mask)
    for name, value in seconds.items():
        print(f"  {name:<20}{1000 * value / len(images):6.1f} ms")
    print(
        f"  {'all':<20}{1000 * sum(seconds.values()) / len(images):6.1f} ms per image, one core, {len(images)} images"
    )


def memory(images: list[Path], count: int, model: Path) -> None:
    """Peak memory of the process after every fifth of `count` images."""
    predictor = Predictor.from_model(model, "cpu", batch_size=BATCH)
    with tempfile.TemporaryDirectory() as place:
        folder = linked(images, Path(place) / "in", count)
        step = max(1, count // 5)
        for done in range(step, count + 1, step):
            infer_folder(folder, Path(place) / "o", predictor, limit=step, quiet=True, report=done + step > count)
            print(f"{done:6d} images: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="BUSI in its original layout, or a folder of PNG files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="use that many images")
    parser.add_argument("--ways", help="some of the ways, by name and with commas; network is needed")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, default=default_model(), help="what `phnet infer --model` takes")
    which.add_argument("--profile", help="random weights of the network of cpu or paper")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--memory", type=int, metavar="N")
    parser.add_argument(
        "--stock", type=Path, metavar="OUT", help="write the masks of all files of IMAGES by MONAI's parts"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        measure(args, random_model(args.profile, Path(place)) if args.profile else args.model)


def measure(args: argparse.Namespace, model: Path) -> None:
    if args.stock:
        stock_loop(plain_model(model), args.images)(args.stock)
        return
    images = pictures(args.images)
    if args.limit:
        images = images[:: max(1, len(images) // args.limit)][: args.limit]
    if args.stages:
        stages(images, model)
        return
    if args.memory:
        memory(images, args.memory, model)
        return
    found = speeds(images, args.rounds, model, args.ways and args.ways.split(","))
    print(f"{len(images)} images, {torch.get_num_threads()} threads, {os.cpu_count()} cores, torch {torch.__version__}")
    for name, rate in found.items():
        relative = rate["median"] / found["network"]["median"]
        print(
            f"  {name:<9}{rate['median']:8.2f} images/s ({rate['lowest']:.2f} - {rate['highest']:.2f}) {relative:6.2f}"
        )
    if args.out:
        stamp = {"date": datetime.date.today().isoformat(), "images": len(images), "model": model.name}
        write_json(args.out, {**stamp, "machine": machine(), "images_per_second": found})


if __name__ == "__main__":
    main()
