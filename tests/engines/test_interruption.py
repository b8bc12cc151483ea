"""Signals at safe points."""

# ruff: noqa: PT012

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from phnet_monai.engines.interruption import Interruption


class Ended(BaseException):
    pass


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """SIGTERM raises `Ended`, Ctrl-C `KeyboardInterrupt`; both must be back afterwards."""

    def end(*_: object) -> None:
        raise Ended

    before = {signal.SIGTERM: end, signal.SIGINT: signal.default_int_handler}
    old = {number: signal.signal(number, handler) for number, handler in before.items()}
    yield
    found = {number: signal.getsignal(number) for number in before}
    for number, handler in old.items():
        signal.signal(number, handler)
    assert found == before


def make() -> tuple[Interruption, list[str]]:
    seen: list[str] = []
    return Interruption(lambda: seen.append("saved")), seen


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_at_once_where_nothing_is_held(number: int, error: type[BaseException]) -> None:
    interruption, seen = make()
    with pytest.raises(error), interruption.installed():
        signal.raise_signal(number)
        seen.append("went on")
    assert seen == ["saved"]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Ended), (signal.SIGINT, KeyboardInterrupt)])
def test_after_what_is_held(number: int, error: type[BaseException], capfd: pytest.CaptureFixture[str]) -> None:
    interruption, seen = make()
    with pytest.raises(error), interruption.installed():
        interruption.hold()
        with interruption.held():
            signal.raise_signal(number)
            seen.append("file")
        seen.append("step")
        interruption.release()
        seen.append("went on")
    assert seen == ["file", "step", "saved"]
    assert "the step that runs is finished and saved" in capfd.readouterr().err


def test_a_second_ctrl_c_ends_at_once() -> None:
    interruption, seen = make()
    with pytest.raises(KeyboardInterrupt), interruption.installed():
        interruption.hold()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        seen.append("went on")
    assert seen == []


def test_further_sigterms_change_nothing() -> None:
    interruption, seen = make()
    with pytest.raises(Ended), interruption.installed():
        interruption.hold()
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        seen.append("step")
        interruption.release()
    assert seen == ["step", "saved"]


def test_the_error_of_what_is_held_comes_first() -> None:
    interruption, seen = make()
    with pytest.raises(ValueError, match="disk"), interruption.installed(), interruption.held():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("disk")
    assert seen == []


def test_an_ignored_signal_stays_ignored() -> None:
    interruption, seen = make()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruption.installed():
        signal.raise_signal(signal.SIGINT)
        seen.append("went on")
    assert seen == ["went on"]
    assert signal.signal(signal.SIGINT, before) is signal.SIG_IGN


def test_in_a_thread_signals_are_left_alone() -> None:
    interruption, seen = make()

    def work() -> None:
        with interruption.installed():
            seen.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == ["worked"]


def test_a_process_that_inherited_the_handler_saves_nothing() -> None:
    """A loader's process: it ends as Python would end it."""
    interruption, seen = make()
    with interruption.installed():
        child = os.fork()
        if child == 0:
            code = 1
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                code = 0 if seen == [] else 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
