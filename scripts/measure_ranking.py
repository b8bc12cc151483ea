"""Labels chosen by `phnet rank` against labels chosen at random, at the same number.

    python scripts/measure_ranking.py BUSI --out docs/results/ranking --work runs/ranking --start 16 --more 16

For each seed, a model is trained with START labels (drawn as `phnet prepare` draws them). Each arm adds MORE labels to
these from the unlabeled images, and a model is trained anew with all of them, from the encoder's ImageNet weights and
by the same recipe: a labeled-only start, then the method. All are scored on one test part. Arms:

    rank          phnet rank with its default weights, the START images counting as outlined
    uncertainty   without diversity (weights 1,1,0)
    diversity     without the model's answers (weights 0,0,1)
    random        drawn at random from the unlabeled images

One JSON per finished training in OUT/results; after a stop, the same command goes on. The table at the end also counts
the groups of near-duplicates that the added labels belong to: a choice that repeats itself has fewer than MORE.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phnet_monai import __version__
from phnet_monai.comparison import cells
from phnet_monai.comparison.layouts import find_layout, make_datalist
from phnet_monai.data import load_datalist, load_meta
from phnet_monai.data.splits import PARTS
from phnet_monai.files import write_json

WEIGHTS = {"rank": (1, 1, 1), "uncertainty": (1, 1, 0), "diversity": (0, 0, 1)}
ARMS = (*WEIGHTS, "random")
START = "start"
SCORES = ("pooled_dice", "dice_mean")
_PATHS = ("image", "label", "hidden_label")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="data set in its original layout (BUSI, BUS-BRA, images/ and masks/)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, help="datalists and checkpoints; OUT/work where not given")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--method", default="sup_only_ema", help="sup_only_ema, phnet, ...")
    parser.add_argument("--start", type=int, default=16, help="labels of the model that ranks")
    parser.add_argument("--more", type=int, default=16, help="labels that each arm adds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["rank", "random"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--overrides", type=json.loads, default={}, help="JSON: values of the method's configuration")
    parser.add_argument(
        "--start-overrides", type=json.loads, default={}, help="JSON: the same of the labeled-only start"
    )
    study = parser.parse_args(argv)
    if study.start < 1 or study.more < 1:
        parser.error("--start and --more must be at least 1")
    study.work = study.work or study.out / "work"
    check_same_study(study)
    for seed in study.seeds:
        base = study.work / f"seed{seed}" / "datalist.json"
        make_datalist(
            find_layout(study.source), str(study.source), str(base.parent), labeled=str(study.start), seed=seed
        )
        train_and_score(study, seed, START, base)
        for arm in study.arms:
            if not result_file(study, seed, arm).is_file():
                train_and_score(study, seed, arm, extended_datalist(study, seed, arm, base))
    text = table(study)
    (study.out / "ranking.md").write_text(text, encoding="utf-8")
    print(text)


def check_same_study(study: argparse.Namespace) -> None:
    """Results of other settings are not mixed in one folder."""
    names = ("profile", "method", "start", "more", "overrides", "start_overrides")
    settings = {name: getattr(study, name) for name in names}
    path = study.out / "study.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{path}: this folder holds a study with other settings; choose another one")
    write_json(path, settings)


def result_file(study: argparse.Namespace, seed: int, arm: str) -> Path:
    return study.out / "results" / f"{arm}__seed{seed}.json"


def train_and_score(study: argparse.Namespace, seed: int, arm: str, datalist: Path) -> None:
    """The labeled-only start and the method, then the scores; goes on where it was stopped."""
    result = result_file(study, seed, arm)
    if result.is_file():
        return
    print(f"seed {seed}: {arm}", flush=True)
    folder = study.work / f"seed{seed}" / arm
    common = {"profile": study.profile, "seed": seed, "device": study.device}
    first = {**common, "method": "warm_start", "overrides": study.start_overrides}
    cells.train(str(folder / "start"), str(datalist), first)
    second = {**common, "method": study.method, "overrides": study.overrides}
    cells.train(str(folder / "run"), str(datalist), {**second, "init": str(folder / "start" / "last.pt")})
    run = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    scores = {
        part: cells.evaluate(folder / "run", str(datalist), part, run["evaluated"], study.device)["last"]
        for part in ("validation", "test")
    }
    parts, meta = load_datalist(datalist), load_meta(datalist)
    added = [entry for entry in parts["labeled"] if entry["case_id"] in set(meta.get("chosen", ()))]
    content = {
        "arm": arm,
        "seed": seed,
        "labels": len(parts["labeled"]),
        "added": sorted(entry["case_id"] for entry in added),
        "groups": len({entry["group_id"] for entry in added}),
        "scores": {part: {name: summary[name] for name in SCORES} for part, summary in scores.items()},
        "split_sha256": cells.split_sha256(str(datalist)),
        "version": __version__,
        "date": datetime.date.today().isoformat(),
        "machine": cells.machine(),
    }
    write_json(result, content)


def extended_datalist(study: argparse.Namespace, seed: int, arm: str, base: Path) -> Path:
    """The datalist of an arm: `base` with the images that the arm chooses among the labeled ones."""
    path = study.work / f"seed{seed}" / arm / "datalist.json"
    if path.is_file():
        return path
    parts = load_datalist(base)
    pool = [entry for entry in parts["unlabeled"] if "hidden_label" in entry]
    if len(pool) < study.more:
        raise SystemExit(f"{base}: {len(pool)} unlabeled images have a mask, {study.more} were to be added")
    chosen = set(choose(study, seed, arm, pool, parts["labeled"]))
    for entry in pool:
        if entry["case_id"] in chosen:
            parts["unlabeled"].remove(entry)
            parts["labeled"].append({("label" if key == "hidden_label" else key): v for key, v in entry.items()})
    meta = {**load_meta(base), "chosen_by": arm, "chosen": sorted(chosen)}
    meta |= {"counts": {part: len(parts[part]) for part in PARTS}, "sha256": {}}
    content = {part: [_relative(entry, path.parent) for entry in parts[part]] for part in PARTS}
    write_json(path, {**content, "meta": meta})
    return path


def choose(
    study: argparse.Namespace,
    seed: int,
    arm: str,
    pool: Sequence[dict[str, str]],
    labeled: Sequence[dict[str, str]],
) -> list[str]:
    """Case ids of MORE images of the pool."""
    if arm == "random":
        cases = sorted(entry["case_id"] for entry in pool)
        # a stream of its own, so that no other draw of this seed is repeated
        mark = int.from_bytes(hashlib.sha256(b"random arm").digest()[:4], "big")
        return np.random.default_rng([seed, mark]).choice(cases, study.more, replace=False).tolist()

    from phnet_monai.inference import Predictor
    from phnet_monai.inference.examiner import Examiner
    from phnet_monai.inference.rank_folder import examine_files, rank_examined
    from phnet_monai.inference.ranking import Weights

    model = study.work / f"seed{seed}" / START / "run" / "last.pt"
    examiner = Examiner(Predictor.from_model(model, study.device))
    failed: list[tuple[str, str]] = []
    found, known = (
        examine_files({entry["case_id"]: Path(entry["image"]) for entry in entries}, examiner, failed)
        for entries in (pool, labeled)
    )
    if failed:
        raise SystemExit(f"{failed[0][0]}: {failed[0][1]}")
    ranked = rank_examined(found, known, count=study.more, weights=Weights(*WEIGHTS[arm]))
    return [line.image for line in ranked if line.chosen]


def _relative(entry: dict[str, str], folder: Path) -> dict[str, str]:
    start = folder.resolve()
    return {key: os.path.relpath(value, start) if key in _PATHS else value for key, value in entry.items()}


def table(study: argparse.Namespace) -> str:
    """Markdown: mean and standard deviation over the seeds, and the paired difference to random choice."""
    found = {
        (arm, seed): json.loads(result_file(study, seed, arm).read_text(encoding="utf-8"))
        for arm in (START, *study.arms)
        for seed in study.seeds
    }
    lines = [
        f"{study.method}, profile {study.profile}, seeds {', '.join(map(str, study.seeds))}; Dice in percent on the "
        "test part, mean (standard deviation over seeds); in the last column the difference to `random`, seed by seed.",
        "",
        "| labels | arm | pooled Dice | Dice per image | groups of added labels | pooled Dice - random |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in (START, *study.arms):
        of_arm = [found[arm, seed] for seed in study.seeds]
        pooled, mean = ([100 * one["scores"]["test"][name] for one in of_arm] for name in SCORES)
        groups = "" if arm == START else spread([one["groups"] for one in of_arm])
        gains = ""
        if "random" in study.arms and arm not in (START, "random"):
            other = [100 * found["random", seed]["scores"]["test"]["pooled_dice"] for seed in study.seeds]
            gains = ", ".join(f"{a - b:+.1f}" for a, b in zip(pooled, other, strict=True))
        lines.append(f"| {of_arm[0]['labels']} | {arm} | {spread(pooled)} | {spread(mean)} | {groups} | {gains} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    deviation = f" ({statistics.stdev(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


if __name__ == "__main__":
    main()
