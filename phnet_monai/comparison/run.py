"""A comparison from its matrix to finished cells."""

from __future__ import annotations

from pathlib import Path

from phnet_monai.comparison.matrix import (
    Matrix,
    MatrixError,
    check_matrix,
    check_reference,
    merge,
    read_comparison,
    with_digests,
)
from phnet_monai.comparison.plan import Plan
from phnet_monai.data import check_leaks
from phnet_monai.device import core_count
from phnet_monai.files import locked, write_json
from phnet_monai.tasks import Outcome, run_tasks


def compare(
    matrix: Matrix,
    source: str | Path,
    out: str | Path,
    *,
    layout: str,
    work: str | Path | None = None,
    jobs: int = 1,
    threads: int | None = None,
    device: str = "auto",
    progress: bool = True,
    allow_leak: bool = False,
) -> Outcome:
    """Train and score every cell of `matrix` that is not finished.

    Args:
        source: data set in its original layout; layout: `busi`, `busbra` or `folder`.
        out: gets `compare.json` and `results/` (one JSON and two tables per cell). A folder of an earlier comparison is
            gone on with: finished cells are kept, half-finished ones resumed, new rows added.
        work: datalists, labeled-only starts and checkpoints; `out`/work where not given.
        jobs: trainings at a time, each in a process of its own; 0: in this process, for debuggers.
        threads: of each process (None: the cores divided by the jobs).
        allow_leak: go on although a datalist of `work` has one scan on two sides; those made here never have.

    Raises:
        MatrixError, ConfigError, FileNotFoundError, BlockingIOError, LeakError: before any work starts.
    """
    out = Path(out).resolve()
    work = out / "work" if work is None else Path(work).resolve()
    check_matrix(matrix)
    matrix = with_digests(matrix)
    if not Path(source).is_dir():
        raise FileNotFoundError(f"{source}: no such folder; give the data set in its original layout")
    if jobs < 0:
        raise MatrixError(f"jobs is {jobs}, expected at least 0")
    with locked(out, "`phnet compare`"), locked(work, "`phnet compare`"):
        earlier = out / "compare.json"
        whole = merge(read_comparison(out), matrix, str(earlier)) if earlier.is_file() else matrix
        check_reference(whole)
        plan = Plan(matrix, Path(source).resolve(), layout, out, work, device, allow_leak)
        for datalist in {task.arguments.get("datalist") for task in plan.tasks.values()}:
            if datalist is not None and Path(datalist).is_file():
                check_leaks(datalist, allow=allow_leak)
        write_json(earlier, whole.as_data())
        each = threads or max(1, core_count() // max(1, jobs))
        return run_tasks(list(plan.tasks.values()), jobs=jobs, threads=each, progress=progress)
