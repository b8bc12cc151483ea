"""What an earlier run left in OUT: what it forbids, what has to go, and what is still good."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from phnet_monai.inference.files import RESULT_ENDINGS, RESULT_FOLDERS
from phnet_monai.inference.naming import is_hashed
from phnet_monai.inference.records import FAILED, PASSED_OVER, RECORDS, Job, discard, fits, stale
from phnet_monai.inference.summary import RUN_FILE, WHOLE_FILES


def with_earlier_names(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> list[Job]:
    """The jobs, each with the records of its scan under other names (`x.png` keeps its ending once `x.jpg` lies beside
    it; a folder of the last input may be the input now). They go when the scan is done under its new name."""
    present = {job.record_file(out) for job in jobs}
    names: dict[str, list[Path]] = defaultdict(list)
    for path, record in earlier.items():
        if record["origin"] and path not in present:
            names[record["origin"]].append(path)
    return [replace(job, replaces=tuple(names[job.origin])) if job.origin in names else job for job in jobs]


def drop_other_settings(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Remove results of the jobs that another model or setting made: a run that is cut short shall not leave them among
    new ones. Those of the same settings stay until each is replaced."""
    for job in jobs:
        record = earlier.get(job.record_file(out))
        if record is not None and record["settings"] != job.settings:
            discard(out, job.record_file(out))


def unfinished(out: Path, job: Job, record: dict[str, Any] | None) -> Job | None:
    """The job, if there is something to do. Kinds of results that were made before and are not asked for now are made
    anew with it (a scan that was damaged or has changed keeps its probabilities)."""
    if record is None:
        return job
    if fits(out, job, record):
        for path in job.replaces:  # a run was cut short between the two
            discard(out, path)
        return None
    same = (record["image"], record["settings"], record["origin"]) == (job.name, job.settings, job.origin)
    if stale(out, record, job.path):
        discard(out, job.record_file(out))
    return replace(job, kinds=tuple(dict.fromkeys([*job.kinds, *record["kinds"]]))) if same else job


def check_same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raise ValueError if `out` has a readable run.json of other settings (weights, input size, threshold, ...)."""
    earlier = last_settings(out)
    if earlier is None:
        return  # nothing to compare with; records have their own digest
    compared = [name for name in settings if name != "model"]  # a file may be renamed: its digest counts
    different = [name for name in compared if earlier.get(name) != settings[name]]
    if different:
        changes = ", ".join(f"{name} {earlier.get(name)} then, {settings[name]} now" for name in different)
        raise ValueError(
            f"{out} holds results made with other settings ({changes}). Choose another output folder, or replace the "
            "results with --overwrite."
        )


def check_same_records(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError if results of the jobs were made with other settings and no run.json tells of a run between."""
    if last_settings(out) is not None:
        return
    for job in jobs:
        record = earlier.get(job.record_file(out))
        if record is not None and record["settings"] != job.settings:
            raise ValueError(
                f"{out} holds results of {record['image']!r} made with another model or other settings. Choose another "
                "output folder, or replace the results with --overwrite."
            )


def check_own_files(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError if files that no run of ours has made would be overwritten: masks drawn by hand, say, in a
    folder `masks` beside the images, or another program's report. Where the last run has not finished, what has no
    record was left by it."""
    run = _last_run(out)
    if "settings" in run and not run.get("finished"):
        return
    own = {out / name for record in earlier.values() for name in record["outputs"]}
    folders = [out / name for name in RESULT_FOLDERS if name != RECORDS and (out / name).is_dir()]
    foreign = [
        path
        for job in jobs
        if not job.record_file(out).is_file()  # a damaged one tells of a run, too
        for folder in folders
        for path in (folder / f"{job.key}{ending}" for ending in RESULT_ENDINGS)
        if path.is_file() and path not in own
    ]
    if "settings" not in run and not earlier:
        foreign += [out / name for name in (*WHOLE_FILES, RUN_FILE) if (out / name).is_file()]
    if foreign:
        raise ValueError(
            f"{foreign[0]} is there and no result of `phnet infer` ({len(foreign)} such files); it would be "
            "overwritten. Choose another output folder."
        )


def check_no_names(out: Path, earlier: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError if a result that no record names, left by a killed run or of another origin, tells the name of a
    scan: with `--anonymize` none may remain, and what is not known to be a result is not removed."""
    own = {out / name for record in earlier.values() for name in record["outputs"]} | earlier.keys()
    for kind in RESULT_FOLDERS:
        for path in sorted((out / kind).rglob("*")):
            if (
                path.is_file()
                and path not in own
                and not is_hashed(path.relative_to(out / kind).parts[0].split(".")[0])
            ):
                raise ValueError(
                    f"{path} is there and named in no record of a run; under --anonymize no name may remain among the "
                    "results. Remove it, or choose another output folder."
                )


def failed_names(out: Path) -> set[str]:
    """The scans that failed, or held no image, when they were last tried, by run.json."""
    run = _last_run(out)
    try:
        failed = {file["image"] for file in run["files"] if file["status"] in (FAILED, PASSED_OVER)}
        return failed | set(run.get("failed_earlier", ()))
    except (KeyError, TypeError):
        return set()


def last_settings(out: Path) -> dict[str, Any] | None:
    """The settings in `out`'s run.json; None where there is none that can be read."""
    found = _last_run(out).get("settings")
    return found if isinstance(found, dict) else None


def _last_run(out: Path) -> dict[str, Any]:
    """What run.json says; nothing where there is none, or none that can be read."""
    try:
        found = json.loads((out / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_same_input(out: Path, jobs: Sequence[Job], earlier: dict[Path, dict[str, Any]]) -> None:
    """Raise ValueError if a scan would replace the results of another file: of the same name from another folder, or of
    the same name but for the ending, which a run that did not see both told apart."""
    for job in jobs:
        record = earlier.get(job.record_file(out)) if job.origin else None
        if record is not None and record["origin"] not in ("", job.origin):
            raise ValueError(
                f"{out} holds results under the name {job.key.as_posix()!r} of another file, {record['image']!r} of an "
                f"earlier input; {job.name!r} would replace them. Choose another output folder, segment both files in "
                "one run, or replace the results with --overwrite."
            )
