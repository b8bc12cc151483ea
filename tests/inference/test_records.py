"""When a scan counts as finished."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from phnet_monai.inference.records import (
    Job,
    discard,
    fits,
    known_records,
    read_record,
    record_files,
    records_of,
    source_mark,
    write_record,
)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    source = tmp_path / "in" / "a.png"
    source.parent.mkdir()
    source.write_bytes(b"image")
    return Job(source, "a.png", Path("a"), ("masks", "overlays"), "settings", "origin")


def finished_record(out: Path, job: Job) -> dict[str, Any] | None:
    """The record of a scan that needs no more work, else None."""
    record = read_record(job.record_file(out))
    return record if record is not None and fits(out, job, record) else None


def finish(out: Path, job: Job) -> dict[str, Any]:
    outputs = [out / kind / "a.png" for kind in job.kinds]
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"result")
    mark = source_mark(job.path)
    return write_record(out, job, mark=mark, kind="picture", frames=[{"frame": 1}], outputs=outputs)


def test_a_finished_scan(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert finished_record(out, job) is None
    written = finish(out, job)
    assert written["outputs"] == {"masks/a.png": 6, "overlays/a.png": 6}
    assert finished_record(out, job) == written == json.loads((out / "records" / "a.json").read_text())
    assert list(records_of(out, "settings")) == [written]
    assert list(records_of(out, "others")) == []
    assert known_records(out) == {job.record_file(out): {**written, "frames": []}}


def test_fewer_results_are_finished_more_are_not(job: Job, tmp_path: Path) -> None:
    finish(tmp_path / "o", job)
    assert finished_record(tmp_path / "o", replace(job, kinds=("masks",))) is not None
    more = replace(job, kinds=("masks", "probabilities"))
    assert finished_record(tmp_path / "o", more) is None


def test_what_makes_it_unfinished(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "o"
    for spoil in (
        lambda: (out / "masks/a.png").write_bytes(b"resul"),
        lambda: (out / "masks/a.png").unlink(),
        lambda: (out / "records/a.json").write_text("[]"),
        lambda: (out / "records/a.json").write_text('{"version": 99}'),
        lambda: (out / "records/a.json").write_text('{"version": 1}'),
        lambda: (out / "records/a.json").write_text('{"version": 1, "image"'),
        lambda: job.path.write_bytes(b"longer image"),
        lambda: os.utime(job.path, ns=(0, 0)),
        lambda: job.path.unlink(),
    ):
        job.path.write_bytes(b"image")
        finish(out, job)
        assert finished_record(out, job) is not None
        spoil()
        assert finished_record(out, job) is None


@pytest.mark.parametrize("change", [{"name": "a.jpg"}, {"settings": "model b"}, {"origin": "another folder"}])
def test_a_record_of_another_scan_model_or_folder(job: Job, tmp_path: Path, change: dict[str, str]) -> None:
    finish(tmp_path / "o", job)
    assert finished_record(tmp_path / "o", replace(job, **change)) is None


def test_discard_removes_results_and_record(job: Job, tmp_path: Path) -> None:
    out = tmp_path / "o"
    finish(out, job)
    other = out / "masks" / "b.png"
    other.write_bytes(b"stays")
    assert record_files(out) == [job.record_file(out)]
    discard(out, job.record_file(out))
    assert read_record(job.record_file(out)) is None
    assert [path for path in out.rglob("*") if path.is_file()] == [other]
    discard(out, job.record_file(out))  # nothing there: nothing to do


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": {"../victim.txt": 5, "masks/a.png": 6}},
        {"outputs": {"/etc/victim": 5, "masks/a.png": 6}},
        {"outputs": {"run.json": 5, "masks/a.png": 6}},
        {"outputs": {"overlays/a.png": 6}},
        {"outputs": {}},
        {"outputs": {"": 1}},
        {"frames": []},
    ],
)
def test_records_of_something_else_are_none(tmp_path: Path, job: Job, change: dict[str, Any]) -> None:
    """A file that anybody may have written must not name files outside of the results: they would be removed."""
    finish(tmp_path / "o", job)
    file = job.record_file(tmp_path / "o")
    victim = tmp_path / "victim.txt"
    victim.write_text("kept")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert read_record(file) is None
    discard(tmp_path / "o", file)
    assert victim.read_text() == "kept"
