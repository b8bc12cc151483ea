"""`phnet COMMAND ...`: check the arguments, run the command through Google Fire, show errors as one line.

Exit codes: 0 done; 2 a wrong command line, path or value, too little memory for it, or an optional library that is not
installed; 3 some files failed; 4 nothing to do; 5 the disk is full or read-only; 130 interrupted by Ctrl-C, 143 ended
by SIGTERM; 1 a defect (with its traceback). `PHNET_DEBUG=1` shows the traceback of every error.
"""

from __future__ import annotations

import getpass
import logging
import os
import re
import select
import signal
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from phnet_monai import __version__
from phnet_monai.cli.arguments import (
    HelpRequested,
    Signature,
    UsageError,
    as_fire_words,
    bind,
    flag_name,
    nearest,
    signature_of,
)
from phnet_monai.cli.audit import audit
from phnet_monai.cli.compare import compare
from phnet_monai.cli.demo import demo
from phnet_monai.cli.evaluate import evaluate
from phnet_monai.cli.export import export
from phnet_monai.cli.infer import infer
from phnet_monai.cli.prepare import Prepare
from phnet_monai.cli.rank import rank
from phnet_monai.cli.train import train
from phnet_monai.extras import MissingExtraError, without_telemetry
from phnet_monai.files import disk_error, terminal_text

INTERRUPTED, TERMINATED = 130, 143
USER_ERROR, DISK_ERROR = 2, 5


class Terminated(KeyboardInterrupt):
    """SIGTERM: everything that cleans up after Ctrl-C does so after it, too."""


class Commands(dict[str, Any]):
    """PH-Net: segment breast-ultrasound lesions, trained on few outlined and many bare images.

    `phnet COMMAND --help` explains a command, `phnet --version` tells the version.
    """


COMMANDS = Commands(
    audit=audit,
    prepare=Prepare(),
    train=train,
    evaluate=evaluate,
    infer=infer,
    rank=rank,
    export=export,
    compare=compare,
    demo=demo,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: `sys.argv[1:]`) and return the exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: progress bars would fail
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot show must not end the job
            stream.reconfigure(errors="backslashreplace")
    # where MLflow is installed, importing MONAI imports it, and it would tell its makers of its use
    without_telemetry()
    _name_the_user()
    threading.excepthook = _told_by_a_thread
    # an error is told once, below; Ignite's engines would tell it before, some twice
    logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)
    # they name no file, and what makes a file unreadable is told as its failure
    warnings.filterwarnings("ignore", module="pydicom")
    try:
        with _terminated_like_interrupted():
            return run(list(sys.argv[1:] if argv is None else argv))
    except Terminated:
        print("\nphnet: ended by SIGTERM", file=sys.stderr)
        return TERMINATED
    except KeyboardInterrupt:
        print("\nphnet: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            # `phnet ... | head`, which is no error; keep Python's flush at exit quiet
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        from phnet_monai.inference.batches import is_out_of_memory

        full, short = disk_error(error), is_out_of_memory(error)
        known = (ValueError, OSError, FloatingPointError, MissingExtraError)
        # a tracking server that is not there, or a store that it cannot be told in
        tracking = type(error).__module__.partition(".")[0] in ("mlflow", "sqlalchemy")
        if full is None and not (short or tracking or isinstance(error, known)):
            raise  # a defect
        if os.environ.get("PHNET_DEBUG", "") not in ("", "0"):
            traceback.print_exc()
        if short:
            advice = "take smaller batches (batch_size), a smaller input (size), or another device"
            print(f"phnet: not enough memory ({shortened(one_line(error))}); {advice}", file=sys.stderr)
            return USER_ERROR
        if full is None:
            print(f"phnet: {one_line(error)}", file=sys.stderr)
            return USER_ERROR
        print(f"phnet: {one_line(full)}; what was finished is kept: mend that and run it again", file=sys.stderr)
        return DISK_ERROR


def _name_the_user() -> None:
    """Importing MONAI asks for the user's name, and fails for a number without one (`docker run --user 12345`)."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def _nobody_reads() -> bool:
    """Whether it is the reader of the output that has gone: processes that load images have pipes, too."""
    try:
        watched = select.poll()
        for stream in (sys.stdout, sys.stderr):
            watched.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))
    except (OSError, ValueError, AttributeError):  # no file; `poll` is not on every system
        return True


def _told_by_a_thread(error: threading.ExceptHookArgs) -> None:
    """Of a full disk whoever waits for the thread (TensorBoard's writer) tells, in one line."""
    if disk_error(error.exc_value) is None:
        threading.__excepthook__(error)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated` in the main thread."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def end(number: int, frame: Any) -> NoReturn:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(words: list[str]) -> int:
    """Find the command that `words` begin with, check the rest against its signature, call it."""
    component: Any = COMMANDS
    path: list[str] = []
    while isinstance(component, dict):
        title = " ".join(["phnet", *path])
        if not words:
            print(help_text(component, title), file=sys.stderr)
            return USER_ERROR
        word = words.pop(0)
        if word in ("--help", "-h"):
            print(help_text(component, title))
            return 0
        if word == "--version" and not path:
            print(f"phnet {__version__}")
            return 0
        if word not in component:
            raise UsageError(_unknown_command(word, component, title))
        component = component[word]
        path.append(word)
    title = " ".join(["phnet", *path])
    try:
        values = bind(signature_of(component, title), words)
    except HelpRequested:
        print(help_text(component, title))
        return 0
    return _call(path, values)


def _call(path: list[str], values: dict[str, Any]) -> int:
    import fire

    words = [*path, *as_fire_words(values)]
    code = fire.Fire(COMMANDS, command=words, name="phnet", serialize=lambda _: None)
    return int(code or 0)


def _unknown_command(word: str, group: dict[str, Any], title: str) -> str:
    guess = nearest(word, group)
    hint = f"did you mean {guess}?" if guess else f"choose one of {', '.join(group)}."
    return f"unknown {'flag' if word.startswith('-') else 'command'} {word!r} of `{title}`; {hint}"


def one_line(error: BaseException) -> str:
    """The message of an error on a single line, fit for a terminal."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return terminal_text(f"{error.filename}: {error.strerror}")
    return terminal_text(" ".join(str(error).split())) or type(error).__name__


def shortened(text: str, length: int = 160) -> str:
    """The beginning of a message that may run over pages."""
    return text if len(text) <= length else f"{text[:length]}..."


def help_text(component: Any, title: str) -> str:
    """Fire's help screen for a command or group, as plain text without terminal codes."""
    from fire import helptext, trace

    shown = _readable(component) if callable(component) else component
    text = helptext.HelpText(shown, trace.FireTrace(shown, name=title))
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).replace(f"'{title}'", title)
    text = re.sub(r"^( *)-h, (--)", r"\1\2", text, flags=re.MULTILINE)  # that is this help
    return _flags_as_typed(text, signature_of(component, title)) if callable(component) else text


def _flags_as_typed(text: str, signature: Signature) -> str:
    """Fire's `--batch_size=BATCH_SIZE` -> `--batch-size=BATCH_SIZE`; a switch -> `--[no-]overlays`."""
    for name, parameter in signature.parameters.items():
        if not parameter.positional:
            flag = flag_name(name)
            typed = f"--[no-]{flag[2:]}" if parameter.is_switch else f"{flag}={name.upper()}"
            text = text.replace(f"--{name}={name.upper()}", typed)
    return text


def _readable(command: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of `command` whose annotations read well in Fire's help (`cpu | paper`, not `Literal`)."""
    copy = types.FunctionType(
        command.__code__, command.__globals__, command.__name__, command.__defaults__, command.__closure__
    )
    copy.__doc__, copy.__kwdefaults__ = command.__doc__, command.__kwdefaults__
    hints = get_type_hints(command)
    copy.__annotations__ = {name: types.SimpleNamespace(__qualname__=_hint_text(hint)) for name, hint in hints.items()}
    return copy


def _hint_text(hint: Any) -> str:
    if hint is type(None):
        return "none"
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is list:
        return f"{_hint_text(get_args(hint)[0])}, repeatable"
    if get_args(hint):  # `X | None`: Fire itself adds that it is optional
        return " | ".join(_hint_text(part) for part in get_args(hint) if part is not type(None))
    words = {str: "text", int: "whole number", float: "number", bool: "switch"}
    return words.get(hint, str(hint))


if __name__ == "__main__":
    sys.exit(main())
