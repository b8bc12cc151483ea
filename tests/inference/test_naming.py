"""What scans are called, and what messages may say."""

from __future__ import annotations

import hashlib
from pathlib import Path

from phnet_monai.inference.files import find_scans
from phnet_monai.inference.naming import hashed_names, plan_jobs, reason_of
from phnet_monai.inference.records import Job


def test_names_and_keys(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"1")
    (tmp_path / "y.jpg").write_bytes(b"2")
    jobs = plan_jobs(find_scans(tmp_path), ["masks"])
    assert [(job.name, job.key.as_posix(), job.path.exists()) for job in jobs] == [
        ("a/x.png", "a/x", True),
        ("y.jpg", "y", True),
    ]


def test_anonymous_names_are_the_content(tmp_path: Path) -> None:
    for name, content in [("b.png", b"one"), ("a/c.png", b"one"), ("d.png", b"two")]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    one, two = (hashlib.sha256(text).hexdigest()[:16] for text in (b"one", b"two"))
    jobs = plan_jobs(find_scans(tmp_path), ["masks"], anonymize=True)
    assert [(job.path.name, job.name) for job in jobs] == [("c.png", one), ("b.png", f"{one}-2"), ("d.png", two)]
    assert all(job.key == Path(job.name) for job in jobs)


def test_a_file_that_cannot_be_read_has_a_name_too(tmp_path: Path) -> None:
    assert hashed_names([tmp_path / "gone.png", tmp_path / "gone too.png"]) == ["unreadable-1", "unreadable-2"]


def test_reasons_name_the_scan_as_shown() -> None:
    path = Path("/data/Mueller/Anna.png")
    error = ValueError("/data/Mueller/Anna.png is\n no image (Anna.png)")
    assert reason_of(error, Job(path, "ab12", Path("ab12"), ())) == "ab12 is no image (ab12)"
    assert reason_of(error, Job(path, "Mueller/Anna.png", Path("x"), ())) == "Mueller/Anna.png is no image (Anna.png)"
    assert reason_of(KeyError(), Job(path, "x", Path("x"), ())) == "KeyError"


def test_no_way_of_quoting_shows_a_hidden_name(tmp_path: Path) -> None:
    for name in ("DOE  JANE.png", "DOE\nJANE.png", "O'DOE\\x.png", "DOE.png"):
        path = tmp_path / "Ward Doe" / name
        job = Job(path, "ab12", Path("ab12"), ())
        for error in (
            FileNotFoundError(2, "No such file or directory", str(path)),
            ValueError(f"{path} is broken"),
            ValueError(f"cannot read {str(path)!r}: {path.name!r}"),
            ValueError(" ".join(f"{path} is broken".split())),
            ValueError(f"below {path.parent}"),
        ):
            reason = reason_of(error, job)
            assert "DOE" not in reason, (name, error)
            assert "Ward Doe" not in reason, (name, error)
            assert "ab12" in reason
