"""Images per second of one network under eager torch, TorchScript, ONNX Runtime and OpenVINO.

    python scripts/benchmark_backends.py                      # the cpu profile's network, random weights
    python scripts/benchmark_backends.py MODEL --threads 2    # a checkpoint, weights or a bundle folder

Exports the network to a temporary folder as `phnet export` does and loads the files as `phnet infer` does. Batches of
fitted phantoms are run in rounds, every backend once a round, so that a busy machine slows all of them alike; the table
has the medians over the rounds. Reading and writing of images is not part of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from phnet_monai.data import make_phantom
from phnet_monai.inference.exports import export_model
from phnet_monai.inference.models import load_model
from phnet_monai.networks import PHNet
from phnet_monai.transforms.fit import fit_image

NETWORK = {
    "encoder": "tu-tf_efficientnet_lite0",
    "decoder": "deeplabv3plus",
    "embedding_size": None,
    "output_stride": 16,
    "atrous_rates": [6, 12, 18],
    "decoder_channels": 128,
    "head_channels": 64,
}
SIZE, PAD_VALUE = 160, 0.33
WARM_UP = 3


def random_model(folder: Path) -> Path:
    """A checkpoint of the cpu profile's network with random weights."""
    torch.manual_seed(0)
    network = PHNet(**NETWORK)
    info = {"network": network.arguments, "input": {"size": SIZE, "pad_value": PAD_VALUE}}
    torch.save({"student": network.state_dict(), "info": info}, folder / "random.pt")
    return folder / "random.pt"


def phantoms(count: int, size: int, pad_value: float) -> Tensor:
    """Network inputs (count, 1, size, size)."""
    images = [make_phantom((300 + 20 * seed, 400), seed=seed)[0] for seed in range(count)]
    return torch.stack([fit_image(image, size, pad_value) for image in images])


def backends(model: Path, exports: dict[str, Path]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Every way to run the network, on the CPU with the present number of threads."""
    eager = load_model(model, device="cpu").network
    last = load_model(model, device="cpu").network.to(memory_format=torch.channels_last)
    return {
        "torch": eager,
        "torch, channels last": lambda images: last(images.contiguous(memory_format=torch.channels_last)),
        "TorchScript": load_model(exports["torchscript"], device="cpu").network,
        "ONNX Runtime": load_model(exports["onnx"], device="cpu", backend="onnx").network,
        "OpenVINO": load_model(exports["onnx"], device="cpu", backend="openvino").network,
    }


@torch.inference_mode()
def seconds(runs: dict[str, Callable[[Tensor], Tensor]], images: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round."""
    for run in runs.values():
        for _ in range(WARM_UP):
            run(images)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            run(images)
            times[name].append(time.perf_counter() - begun)
    return times


def print_table(threads: int, batch: int, times: dict[str, list[float]]) -> None:
    base = statistics.median(times["torch"])
    print(f"\n{threads} thread{'s' * (threads > 1)}, batch {batch}, medians of {len(times['torch'])} rounds")
    print(f"{'backend':<22}{'images/s':>10}{'x torch':>9}{'best':>8}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:<22}{batch / middle:>10.1f}{base / middle:>9.2f}{batch / min(values):>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="checkpoint, weights or bundle folder")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or random_model(folder)
        exports = {"torchscript": folder / "model.ts", "onnx": folder / "model.onnx"}
        for kind, path in exports.items():
            done = export_model(model, path, kind)
            print(f"{kind}: largest difference of a probability {done.difference:.1e}")
        loaded = load_model(model, device="cpu")
        images = phantoms(args.batch, loaded.size, loaded.pad_value)
        for threads in args.threads:
            torch.set_num_threads(threads)
            print_table(threads, args.batch, seconds(backends(model, exports), images, args.rounds))


if __name__ == "__main__":
    main()
