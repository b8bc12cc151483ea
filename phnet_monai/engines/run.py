"""Runs of the bundle's configs from Python and from the command line, with every name checked first."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from phnet_monai.data import check_leaks, load_part
from phnet_monai.data.records import shorten
from phnet_monai.device import pick_device
from phnet_monai.distributed import Shard, current_shard
from phnet_monai.engines.config_check import SEPARATOR, ConfigError, check_entry, config_mistake, is_wrapper
from phnet_monai.engines.init_check import check_init
from phnet_monai.engines.tracking import check_tracking, track
from phnet_monai.files import locked, make_folder, remove_unless_more, write_json
from phnet_monai.networks import load_ensemble, read_checkpoint
from phnet_monai.seeds import check_seed
from phnet_monai.shipped import bundle_folder

RECIPES = ("harmonised", "native")
MAY_DIFFER = (
    *("bundle_root", "dataset_dir", "output_dir", "datalist", "device", "amp", "num_workers", "cache_rate"),
    *("init", "labeler_init", "second_init", "resume", "allow_leak"),
    *("progress", "pseudo_label_evaluator"),
)
"""Ids that do not change what is trained: places, means, and what is said and kept of it."""
MAY_DIFFER_WITHIN = ("train#trainer#on_nonfinite", "checkpoints#interval")
"""The same within others: a run that was stopped by a broken step can go on by passing over it."""
IMAGES, USED = "images.json", ("labeled", "unlabeled", "validation")
"""In the folder of a run: the images that it learns from and by which its best checkpoint is chosen, by part."""
NEEDED = (
    *("network_def", "network", "optimizer", "scheduler", "weak_view", "checkpoints", "run"),
    *("train#dataset", "train#loader", "train#handlers", "train#trainer", "validate#dataset", "validate#evaluator"),
)
"""Ids that a training cannot do without."""


def overlay(kind: str, name: str) -> Path:
    """Path of a shipped overlay: `kind` is a folder of `bundle/configs`, such as `profiles` or `methods`.

    Raises:
        ConfigError: unknown name; lists the known ones.
    """
    folder = bundle_folder() / "configs" / kind
    path = folder / f"{name}.json"
    if not folder.is_dir():
        kinds = ", ".join(sorted(entry.name for entry in folder.parent.iterdir() if entry.is_dir()))
        raise ConfigError(f"there are no shipped overlays of the kind {kind!r}, but of: {kinds}")
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json")))
        raise ConfigError(f"{kind.removesuffix('s')} {name!r} does not exist; choose one of: {known}")
    return path


def overlay_files(entries: Sequence[str | Path]) -> list[Path]:
    """Overlays by path (`my.json`) or, for shipped ones, by name (`ablations/table2_I`).

    Raises:
        FileNotFoundError: no such file; ConfigError: no such shipped overlay.
    """
    files = []
    for entry in entries:
        if Path(entry).suffix == ".json":
            if not Path(entry).is_file():
                raise FileNotFoundError(f"{entry}: no such config file")
            files.append(Path(entry))
        else:
            kind, _, name = str(entry).rpartition("/")
            if not kind:
                raise ConfigError(f"config {str(entry)!r}: expected a file `*.json`, or KIND/NAME of a shipped overlay")
            files.append(overlay(kind, name))
    return files


def native_methods() -> list[str]:
    """Methods whose authors' own settings are shipped (`configs/native`)."""
    return sorted(path.stem for path in (bundle_folder() / "configs" / "native").glob("*.json"))


def training_overlays(
    profile: str, method: str, *, recipe: str = "harmonised", config: Sequence[str | Path] = ()
) -> list[Path]:
    """What is laid over `train.json`, in order: profile, method, the method's own recipe, further overlays.

    Args:
        recipe: `harmonised`, PH-Net's protocol for every method; or `native`, the optimiser and schedule of the
            method's authors where they differ (`configs/native`).

    Raises:
        ConfigError, FileNotFoundError: unknown names, or `native` for a method without settings of its own.
    """
    if recipe not in RECIPES:
        raise ConfigError(f"recipe is {recipe!r}, expected one of {', '.join(RECIPES)}")
    files = [overlay("profiles", profile), overlay("methods", method)]
    if recipe == "native":
        if method not in native_methods():
            known = ", ".join(name for name in native_methods() if not name.endswith("_warm_start"))
            raise ConfigError(
                f"method {method!r} has no native recipe (no configs/native/{method}.json); train it with the recipe "
                f"harmonised, or choose one of: {known}"
            )
        files.append(overlay("native", method))
    return [*files, *overlay_files(config)]


def check_no_separator(*paths: Any) -> None:
    """Refuse paths with `#`: MONAI's parser of configs takes it for the separator of ids, and would read and write
    elsewhere.

    Raises:
        ConfigError: naming the path.
    """
    for path in paths:
        if isinstance(path, (str, Path)) and SEPARATOR in (whole := str(Path(path).resolve())):
            raise ConfigError(
                f"{whole}: holds `{SEPARATOR}`, which MONAI's configs take for a separator; rename the file or folder"
            )


def compose(
    base: Path, overlays: Sequence[str | Path] = (), overrides: Mapping[str, Any] | None = None
) -> ConfigParser:
    """Base config with overlay files and single values laid over it in order.

    Names are ids as in MONAI (`apa#threshold`); every one must exist in the config, or be an argument of the component
    that it points into, and its value must be of the kind that stands there (`check_entry`). MONAI itself accepts
    misspelt ones silently.

    Raises:
        FileNotFoundError, ConfigError.
    """
    shipped = _read_json(base)
    layers = [(str(path), _read_json(Path(path))) for path in overlays]
    layers.append(("command line", dict(overrides or {})))
    parser = ConfigParser(copy.deepcopy(shipped))  # the parser writes into what it is given
    for origin, values in layers:
        for key, value in values.items():
            check_entry(parser.get(), shipped, key, value, origin)
            parser[key] = value
    return parser


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such config file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object with ids as keys, found a {type(content).__name__}")
    return content


def run(parser: ConfigParser) -> None:
    """`initialize`, `run`, `finalize`, as `python -m monai.bundle run` does.

    Raises:
        ConfigError: a reference leads nowhere, or what `config_mistake` knows; else what a component raised.
    """
    try:
        parser.parse()
    except (KeyError, ValueError) as error:
        raise ConfigError(f"config: {error.args[0] if error.args else error}") from error
    try:
        for name in ("initialize", "run", "finalize"):
            if name in parser:
                parser.get_parsed_content(name)
    except RuntimeError as error:
        own = config_mistake(error) or _own_error(error)
    else:
        return
    raise own  # not within `except`, which would replace the error that stands behind it (a full disk, say)


def _own_error(error: BaseException) -> BaseException:
    """The error behind those in which MONAI wraps whatever a component or an expression raises."""
    while is_wrapper(error):
        error = error.__cause__  # type: ignore[assignment]
    return error


def train_run(
    datalist: str | Path,
    out: str | Path,
    *,
    profile: str = "cpu",
    method: str = "phnet",
    recipe: str = "harmonised",
    config: Sequence[str | Path] = (),
    seed: int = 0,
    init: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    amp: str | None = None,
    tracking: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    allow_leak: bool = False,
) -> dict[str, Any]:
    """Train by `train.json` with a profile, a method and further overlays; see `phnet train --help`.

    Processes started by `torchrun` train together (`multi_gpu_train.json` is laid over the rest).

    Returns:
        `{"best": {"score", "epoch"}, "last": {...}, "out"}`, also written to `out`/run.json beside the composed config.

    Raises:
        FileNotFoundError, FileExistsError, ConfigError, CheckpointError, LeakError, TrackingError, MissingExtraError:
            before any work starts.
        BlockingIOError: another training is at work in `out`.
    """
    out = Path(out)
    if tracking is not None:
        check_tracking(tracking)
    shard = current_shard()
    if shard.world > 1 and device != "auto":
        raise ValueError(f"device is {device!r}, but torchrun has started {shard.world} processes; leave it at auto")
    device = str(pick_device(device)) if device != "auto" else device
    check_seed(seed)
    given = [(overrides or {}).get(name) for name in ("labeler_init", "second_init")]
    check_no_separator(datalist, out, init, *given)
    check_leaks(datalist, allow=allow_leak)  # before a folder is made; the config warns of what is allowed
    start = None if init is None else read_checkpoint(init)
    saved_before = [out / name for name in ("last.pt", "previous.pt") if (out / name).is_file()]
    if saved_before and not resume:
        raise FileExistsError(f"{saved_before[0]}: a run was saved here before; use --resume, or another folder")
    values = {
        "datalist": str(Path(datalist).resolve()),
        "output_dir": str(out.resolve()),
        "seed": seed,
        "init": None if init is None else str(Path(init).resolve()),
        "resume": resume,
        "allow_leak": allow_leak,
        **({} if amp is None else {"amp": None if amp == "off" else amp}),
        **({} if device == "auto" else {"device": device}),
        **(overrides or {}),
    }
    parser = compose(
        bundle_folder() / "configs" / "train.json",
        [*training_overlays(profile, method, recipe=recipe, config=config), *_of_several_processes(shard)],
        values,
    )
    for name in NEEDED:
        if parser.get(name) in (None, [], {}):
            raise ConfigError(f"config: {name!r} is {json.dumps(parser.get(name))}, but no training goes without it")
    if init is not None and start is not None:
        check_init(init, start, parser.get("network_def"))
    with _alone_in(out) if shard.first else nullcontext():
        going_on = bool(saved_before)
        kept, images = out / "config.json", out / IMAGES
        if going_on:  # a refused resume must not replace what was trained
            check_same_processes(kept, shard)
            check_same_images(images, datalist)
        elif resume and shard.first:
            print(f"phnet: {out}: there is nothing to resume; a new training begins", file=sys.stderr)
        if going_on and kept.is_file():
            check_same_config(kept, parser.get())
        elif shard.first:
            write_json(kept, parser.get())
            write_json(images, trained_images(datalist))
        if tracking is not None:
            track(parser, tracking, out, {"method": method, "profile": profile, "recipe": recipe, "seed": seed})
        run(parser)
        if shard.first and not (out / "last.pt").is_file():
            raise ConfigError(f"{out}: the config's `run` has ended without a checkpoint; nothing was trained")
        saved = parser.get_parsed_content("checkpoints")
        result = {
            "best": {"score": saved.best_score if saved.best_epoch else None, "epoch": saved.best_epoch},
            "last": {"score": saved.last_score, "epoch": parser.get_parsed_content("max_epochs")},
            "score": saved.score,
            "evaluated": saved.evaluated,
            "out": str(out),
        }
        if shard.first:
            write_json(out / "run.json", result)
    return result


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """No other training works in the folder; nothing is left of one that fails before it has saved anything."""
    made = make_folder(out)
    with locked(out, "`phnet train`"):
        try:
            yield
        except BaseException:
            if made:
                remove_unless_more(out, ("config.json", IMAGES, ".lock", "tensorboard", "mlruns.db"))
            raise


def check_same_processes(kept: Path, shard: Shard) -> None:
    """Refuse to go on by one process with what several have trained, or the other way round.

    Args:
        kept: the run's config.json, in which joined processes have `finalize`.

    Raises:
        ConfigError.
    """
    several = bool(_read_json(kept).get("finalize")) if kept.is_file() else shard.world > 1
    if several != (shard.world > 1):
        before = "several processes" if several else "one process"
        raise ConfigError(
            f"{kept.parent}: the run was trained by {before}, now there {'is' if shard.world == 1 else 'are'} "
            f"{shard.world}; resume with as many"
        )


def check_same_config(kept: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with another configuration than the one that a run began with.

    Args:
        kept: the run's config.json; config: the present one, composed. Ids that the older one did not know and that
            have their shipped value now are passed over (they came with a later version), and so are those of
            `MAY_DIFFER`.

    Raises:
        ConfigError: they differ; the message names the ids.
    """
    found = config_differences(_read_json(kept), config)
    if found:
        raise ConfigError(
            f"{kept}: the run began with another configuration: {shorten(found, 5)}. Resume with the same one, or "
            "train into another folder."
        )


def trained_images(datalist: str | Path) -> dict[str, list[str]]:
    """The cases that a training uses, by part, sorted; places do not count, a data set may be moved."""
    return {part: sorted(str(entry["case_id"]) for entry in load_part(datalist, part)) for part in USED}


def check_same_images(kept: Path, datalist: str | Path) -> None:
    """Refuse to go on with other images than the run began with; those of an older version have no list.

    Raises:
        ConfigError: naming the part.
    """
    before = _read_json(kept) if kept.is_file() else {}
    now = trained_images(datalist)
    for part in (part for part in USED if part in before and before[part] != now[part]):
        raise ConfigError(
            f"{datalist}: its {part} images ({len(now[part])}) are not those that the run in {kept.parent} began with "
            f"({len(before[part])}). Resume with the same datalist, or train into another folder."
        )


def what_is_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """A composed configuration without what does not change the training (`MAY_DIFFER`), as plain values."""
    return {name: value for name, value in json.loads(json.dumps(config)).items() if name not in MAY_DIFFER}


def config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`id was value, is value` of all that makes two composed configurations different trainings, single values first.

    Ids of one of them only, and new ones that hold what `train.json` ships, are of another version, and no difference.
    """
    before, now = what_is_trained(before), what_is_trained(now)
    simple_first = sorted(before.keys() & now.keys(), key=lambda name: (isinstance(before[name], dict), name))
    shipped = json.loads((bundle_folder() / "configs" / "train.json").read_text(encoding="utf-8"))
    return [one for name in simple_first for one in _differences(name, before[name], now[name], shipped.get(name))]


def _differences(name: str, before: Any, now: Any, shipped: Any) -> list[str]:
    """`id: value then, value now` of all that differs below an id."""
    if isinstance(before, dict) and isinstance(now, dict):
        usual = shipped if isinstance(shipped, dict) else {}
        later = [key for key in now if key not in before and not (key in usual and now[key] == usual[key])]
        return [
            one
            for key in [*before, *later]
            for one in _differences(f"{name}{SEPARATOR}{key}", before.get(key), now.get(key), usual.get(key))
        ]
    then, present = ("{...}" if isinstance(value, dict) else json.dumps(value) for value in (before, now))
    return [] if before == now or name in MAY_DIFFER_WITHIN else [f"{name} was {then}, is {present}"]


def _of_several_processes(shard: Shard) -> list[Path]:
    return [bundle_folder() / "configs" / "multi_gpu_train.json"] if shard.world > 1 else []


def evaluate_run(
    checkpoint: str | Path | Sequence[str | Path],
    datalist: str | Path,
    out: str | Path,
    *,
    part: str = "test",
    device: str = "auto",
    batch_size: int = 8,
    which: str = "teacher",
    allow_leak: bool = False,
) -> dict[str, Any]:
    """Evaluate a checkpoint by `evaluate.json` at the original image size; network and sizes come from the checkpoint.

    Several checkpoints are evaluated as one ensemble (`load_ensemble`).

    Returns:
        The summary that is also in `out`/summary.json; `out`/per_image.csv has one row per image.

    Raises:
        FileNotFoundError, CheckpointError, LeakError, ValueError: before any work starts.
    """
    device = str(pick_device(device)) if device != "auto" else device
    paths = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
    check_no_separator(datalist, out, *paths)
    images = load_part(datalist, part)
    check_leaks(datalist, allow=allow_leak)
    _, info = load_ensemble(paths, which=which)
    if not images:
        raise ValueError(f"{datalist}: its part {part!r} holds no image to score; choose another, or prepare it again")
    files = [str(Path(path).resolve()) for path in paths]
    values = {
        "checkpoint": files[0] if len(files) == 1 else files,
        "which": which,
        "datalist": str(Path(datalist).resolve()),
        "output_dir": str(Path(out).resolve()),
        "part": part,
        "size": info["input"]["size"],
        "pad_value": info["input"]["pad_value"],
        "batch_size": batch_size,
        "allow_leak": allow_leak,
        **({} if device == "auto" else {"device": device}),
    }
    # it comes with its weights, so that the handler that loads them is left out; a checkpoint's own words about its
    # network must not reach the config, where `$` is code
    values |= {"network_def": {"_target_": "phnet_monai.networks.load_network", "paths": files, "which": which}}
    values |= {"handlers#0": None}
    run(compose(bundle_folder() / "configs" / "evaluate.json", (), values))
    return json.loads((Path(out) / "summary.json").read_text(encoding="utf-8"))
