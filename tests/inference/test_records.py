"""When a scan counts as finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.inference.records import Job, discard, finished_record, finished_records, read_record, write_record


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = tmp_path / "in" / "a.png"
    source.parent.mkdir()
    source.write_bytes(b"image")
    return Job(source, "a.png", Path("a"), ("masks", "overlays"))


def finish(out: Path, job: Job, **changes: Any) -> dict[str, Any]:
    outputs = [out / kind / "a.png" for kind in job.kinds]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"result")
    return write_record(out, job, kind="picture", frames=[{"frame": 1}], outputs=outputs)


def test_a_finished_scan(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert finished_record(out, job) is None
    written = finish(out, job)
    assert written["outputs"] == {"masks/a.png": 6, "overlays/a.png": 6}
    assert finished_record(out, job) == written == json.loads((out / "records" / "a.json").read_text())
    assert list(finished_records(out, [job, Job(job.path, "b.png", Path("b"), ("masks",))])) == [written]


def test_fewer_results_are_finished_more_are_not(job: Job, tmp_path: Path) -> None:
    finish(tmp_path / "o", job)
    assert finished_record(tmp_path / "o", Job(job.path, job.name, job.key, ("masks",))) is not None
    more = Job(job.path, job.name, job.key, ("masks", "probabilities"))
    assert finished_record(tmp_path / "o", more) is None


def test_what_makes_it_unfinished(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "o"
    for spoil in (
        lambda: (out / "masks/a.png").write_bytes(b"resul"),
        lambda: (out / "masks/a.png").unlink(),
        lambda: (out / "records/a.json").write_text("[]"),
        lambda: (out / "records/a.json").write_text('{"version": 99}'),
        lambda: job.path.write_bytes(b"longer image"),
        lambda: os.utime(job.path, ns=(0, 0)),
    ):
        finish(out, job)
        assert finished_record(out, job) is not None
        spoil()
        assert finished_record(out, job) is None


def test_a_record_of_another_scan_under_the_same_name(job: Job, tmp_path: Path) -> None:
    finish(tmp_path / "o", job)
    assert finished_record(tmp_path / "o", Job(job.path, "a.jpg", job.key, job.kinds)) is None


def test_discard_removes_results_and_record(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "o"
    finish(out, job)
    other = out / "masks" / "b.png"
    other.write_bytes(b"stays")
    discard(out, job)
    assert read_record(out, job) is None
    assert [path for path in out.rglob("*") if path.is_file()] == [other]
    discard(out, job)  # nothing there: nothing to do
