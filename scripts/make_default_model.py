"""Train, score and write the model that ships with the bundle, and its model card.

    python scripts/make_default_model.py BUSI BUSBRA --work runs/default_model

BUSI with its images without lesion, `grouped` split, all training images labeled, `cpu` profile, EMA teacher of a
supervised training (`configs/options/default_model.json`). Validation and test part are never trained on; BUS-BRA is
external. Writes `bundle/models/model.pt` (plain state dict, half precision if it scores the same), the same tensors as
`model.safetensors`, their digests, and the card, `bundle/docs/model_card.md` with its figures in `model_card.json`.
After a stop, the same command goes on. `--out` writes to another folder than the bundle; `--scores-only` scores the
model that is there once more, and rewrites its card.
"""

from __future__ import annotations

import argparse
import datetime
import json
import string
from pathlib import Path
from typing import Any

import torch

from phnet_monai.comparison.cells import machine
from phnet_monai.data import prepare_busi
from phnet_monai.data.busbra import read_busbra
from phnet_monai.data.datalist import load_part, write_datalist
from phnet_monai.engines.run import evaluate_run, overlay_files, train_run
from phnet_monai.files import atomic_writer, sha256_of, write_json
from phnet_monai.networks import load_checkpoint
from phnet_monai.networks.digests import record_digests
from phnet_monai.networks.tensor_file import safetensors_bytes
from phnet_monai.shipped import bundle_folder

SEED = 0
RECIPE: dict[str, Any] = {"method": "sup_only_ema", "config": ["options/default_model"], "seed": SEED}
SAME = 5e-4  # half precision ships if no score moves by more
SCORES = ("pooled_dice", "dice_mean")
MODELS = ("model.pt", "model.safetensors")
TOLD = ("network", "input", "method")  # what model.safetensors tells of its network


def busi(source: Path, work: Path) -> Path:
    """BUSI with all training images labeled."""
    folder = work / "busi"
    if (folder / "datalist.json").is_file():
        return folder / "datalist.json"
    return prepare_busi(source, folder, labeled="1/1", seed=SEED, normals=True)


def external(source: Path, work: Path) -> Path:
    """BUS-BRA, every image in the test part."""
    file = work / "busbra" / "datalist.json"
    if file.is_file():
        return file
    parts = {"labeled": [], "unlabeled": [], "validation": [], "test": read_busbra(source)}
    return write_datalist(parts, file.parent, meta={"dataset": "BUS-BRA", "protocol": "all images are for testing"})


def train(datalist: Path, work: Path, recipe: dict[str, Any]) -> Path:
    folder, kept = work / "run", work / "recipe.json"
    if kept.is_file() and json.loads(kept.read_text(encoding="utf-8")) != recipe:
        raise SystemExit(f"{kept}: {work} holds a model of another recipe; take another folder for --work")
    write_json(kept, recipe)
    if not (folder / "run.json").is_file():
        arguments = {**recipe, "config": [str(path) for path in overlay_files(recipe["config"])]}
        train_run(datalist, folder, resume=(folder / "last.pt").is_file(), **arguments)
    return folder / "last.pt"


def half(checkpoint: Path, work: Path) -> Path:
    """The checkpoint with its teacher's weights rounded to half precision."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    rounded = {name: _half(tensor) for name, tensor in content["teacher"].items()}
    path = work / "half.pt"
    torch.save({"teacher": {name: t.float() for name, t in rounded.items()}, "info": content["info"]}, path)
    return path


def _half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def export(checkpoint: Path, folder: Path, *, rounded: bool) -> list[Path]:
    """model.pt and model.safetensors in the folder, and their digests beside them."""
    network, info = load_checkpoint(checkpoint)
    weights = {name: _half(t) if rounded else t for name, t in network.state_dict().items()}
    plain, safe = (folder / name for name in MODELS)
    with atomic_writer(plain) as stream:
        torch.save(weights, stream)
    with atomic_writer(safe) as stream:
        stream.write(safetensors_bytes(weights, {key: info[key] for key in TOLD}))
    record_digests(plain.parent, list(MODELS))
    return [plain, safe]


def figures(checkpoint: Path, parts: dict[str, tuple[Path, str]], work: Path, name: str) -> dict[str, Any]:
    """Summary of the teacher on each part."""
    return {
        label: evaluate_run(checkpoint, datalist, work / "scores" / name / label, part=part)
        for label, (datalist, part) in parts.items()
    }


def rescore(out: Path, parts: dict[str, tuple[Path, str]], work: Path) -> dict[str, Any]:
    """The card of the model in `out` with its scores taken anew."""
    card = json.loads((out / "docs" / "model_card.json").read_text(encoding="utf-8"))
    card["scores"] = figures(out / "models" / MODELS[1], parts, work, "shipped")
    return {**card, "scored": datetime.date.today().isoformat()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(abs(first[part][score] - second[part][score]) <= SAME for part in first for score in SCORES)


ROWS = {
    "images (without lesion)": lambda s: f"{s['images']} ({s['images_without_lesion']})",
    "pooled Dice": lambda s: _interval(s, "pooled_dice", "pooled_dice_ci"),
    "Dice per image": lambda s: _interval(s, "dice_mean", "dice_ci"),
    "missed lesion images": lambda s: f"{s['missed']} ({100 * s['missed_rate']:.1f} %)",
    "lesions found": lambda s: f"{100 * s['lesion_sensitivity']:.1f} % of {s['lesions']}",
    "false lesions per image": lambda s: f"{s['false_positives_per_image']:.2f}",
    "false alarms on images without lesion": lambda s: _share(s, "false_positive_rate_without_lesion"),
    "HD95, px": lambda s: f"{s['hd95_mean']:.0f} (median {s['hd95_median']:.0f})",
    "calibration error (ECE)": lambda s: f"{s['ece']:.4f}",
}


def _interval(summary: dict[str, Any], key: str, limits: str) -> str:
    low, high = summary[limits]
    return f"{100 * summary[key]:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _share(summary: dict[str, Any], key: str) -> str:
    return f"{100 * summary[key]:.1f} %" if summary["images_without_lesion"] else "no such images"


def card_text(card: dict[str, Any]) -> str:
    """The model card in Markdown."""
    scores = [card["scores"][part] for part in ("test", "validation", "external")]
    rows = [f"| {name} | " + " | ".join(write(s) for s in scores) + " |" for name, write in ROWS.items()]
    template = string.Template((Path(__file__).parent / "model_card_template.md").read_text(encoding="utf-8"))
    return template.substitute(
        seed=SEED,
        date=card["date"],
        cores=card["machine"]["cores"],
        torch=card["machine"]["torch"],
        precision=card["precision"],
        megabytes=f"{card['files']['model.pt']['bytes'] / 1e6:.1f}",
        sha256_pt=card["files"]["model.pt"]["sha256"],
        sha256_safetensors=card["files"]["model.safetensors"]["sha256"],
        labeled=card["counts"]["labeled"],
        rows="\n".join(rows),
    )


def make(args: argparse.Namespace, datalist: Path, parts: dict[str, tuple[Path, str]]) -> dict[str, Any]:
    """Train, score and write the model; returns its card."""
    recipe = {"profile": args.profile, **RECIPE, **({"overrides": args.overrides} if args.overrides else {})}
    checkpoint = train(datalist, args.work, recipe)
    full = figures(checkpoint, parts, args.work, "full")
    rounded = half(checkpoint, args.work)
    halved = figures(rounded, parts, args.work, "half")
    fits = same(full, halved)
    paths = export(checkpoint, args.out / "models", rounded=fits)
    return {
        "files": {path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size} for path in paths},
        "precision": "half" if fits else "single",
        "recipe": recipe,
        "counts": {part: len(load_part(datalist, part)) for part in ("labeled", "validation", "test")},
        "scores": halved if fits else full,
        "single_precision": {part: {score: full[part][score] for score in SCORES} for part in full},
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("busi", type=Path, help="BUSI in its original layout")
    parser.add_argument("busbra", type=Path, help="BUS-BRA in its original layout")
    parser.add_argument("--work", type=Path, default=Path("runs/default_model"))
    parser.add_argument("--out", type=Path, default=bundle_folder(), help="folder of models/ and docs/; the bundle")
    parser.add_argument("--threads", type=int, help="processor threads")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument(
        "--overrides", type=json.loads, default={}, help="JSON: values of the configuration, for trials"
    )
    parser.add_argument("--scores-only", action="store_true", help="score the model that is there, without training")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    datalist, outside = busi(args.busi, args.work), external(args.busbra, args.work)
    parts = {"validation": (datalist, "validation"), "test": (datalist, "test"), "external": (outside, "test")}
    card = rescore(args.out, parts, args.work) if args.scores_only else make(args, datalist, parts)
    write_json(args.out / "docs" / "model_card.json", card)
    with atomic_writer(args.out / "docs" / "model_card.md") as stream:
        stream.write(card_text(card).encode("utf-8"))
    for name, file in card["files"].items():
        print(f"{name}: {file['bytes']} bytes, {card['precision']} precision, sha256 {file['sha256']}")
    for part, summary in card["scores"].items():
        print(f"{part}: pooled Dice {summary['pooled_dice']:.4f}, per image {summary['dice_mean']:.4f}")


if __name__ == "__main__":
    main()
