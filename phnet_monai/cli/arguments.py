"""From the words of a command line to the typed arguments of a command, checked before anything runs.

Google Fire guesses the type of each word from its look (`2024`, `1e3`, `a,b`, `None` stop being text,
`ma#sk` loses what follows the `#`), lets a switch such as `--resume` swallow the next word, and reports a
misspelt flag only after the whole job has run. So the signature of the command decides here: names, number
and types of the arguments are checked and converted first, and Fire receives each value as a Python literal
(`as_fire_words`), which it reads back exactly.

Rules:
* `--flag value` and `--flag=value`; `-` and `_` are the same in a flag's name; `-f value` where one flag
  only has that initial.
* A `bool` is a switch: `--flag`, `--no-flag`, `--noflag`, `--flag=true`, `--flag=false`. It never takes the
  next word.
* `str` is taken as typed. `list[str]`: the flag may be repeated, and a positional argument takes as many words as
  leave one for each of the others. `Literal[...]`: one of the choices. `int | None`: also `none`.
* What follows `--` is never a flag.
* A command that declares `**overrides` takes any other `--name value` too, unless `name` is nearly that of a flag; such
  values are read by `literal_or_text`.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import re
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

_FLAG = re.compile(r"--.+|-[^\W\d].*", re.DOTALL)  # `-`, `-3` and `-.5` are values
_ID = re.compile(r"--[A-Za-z_][\w#:.-]*")  # of a value of the configuration
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_TRUE, _FALSE = ("true", "yes", "1", "on"), ("false", "no", "0", "off")


class UsageError(ValueError):
    """The command line does not fit the command."""


class HelpRequested(Exception):
    """`--help` or `-h` stood where a flag may stand."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a command: its name in Python, its type hint, and how it may be given."""

    name: str
    hint: Any
    positional: bool
    required: bool

    @property
    def label(self) -> str:
        return self.name.upper() if self.positional else flag_name(self.name)

    @property
    def is_switch(self) -> bool:
        return self.hint is bool

    @property
    def is_list(self) -> bool:
        return any(get_origin(hint) is list for hint in (self.hint, *get_args(self.hint)))


@dataclass(frozen=True)
class Signature:
    """What the command line of one command may hold."""

    name: str
    parameters: Mapping[str, Parameter]
    open_ended: bool = False  # the command declares **overrides
    initials: Mapping[str, str] = field(default_factory=dict)

    @property
    def positionals(self) -> list[Parameter]:
        return [p for p in self.parameters.values() if p.positional]

    @property
    def usage(self) -> str:
        labels = {p.name: f"{p.label} [{p.label} ...]" if p.is_list else p.label for p in self.positionals}
        words = [labels[p.name] if p.required else f"[{labels[p.name]}]" for p in self.positionals]
        words += [f"{p.label} ..." for p in self.parameters.values() if p.required and not p.positional]
        return " ".join([self.name, *words, "[flags]"])


def flag_name(name: str) -> str:
    """`batch_size` -> `--batch-size`."""
    return "--" + name.replace("_", "-")


def nearest(word: str, candidates: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The candidate most like `word`, or None where none is alike (`likeness` as `difflib` measures it, 0 to 1)."""
    found = difflib.get_close_matches(word, list(candidates), n=1, cutoff=likeness)
    return found[0] if found else None


def signature_of(command: Callable[..., Any], name: str) -> Signature:
    """Read the signature and type hints of `command`; `name` is how the user calls it, e.g. `phnet infer`."""
    hints = get_type_hints(command)
    parameters: dict[str, Parameter] = {}
    open_ended = False
    for p in inspect.signature(command).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            open_ended = True
            continue
        parameters[p.name] = Parameter(
            name=p.name,
            hint=hints[p.name],
            positional=p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD),
            required=p.default is p.empty,
        )
    return Signature(name, parameters, open_ended, _initials(parameters.values()))


def _initials(parameters: Iterable[Parameter]) -> dict[str, str]:
    """Initial -> name, for the initials that belong to one flag only (the help shows the same ones)."""
    names = [p.name for p in parameters if not p.positional]
    first = [name[0] for name in names]
    return {name[0]: name for name in names if first.count(name[0]) == 1}


def bind(signature: Signature, words: Sequence[str]) -> dict[str, Any]:
    """The typed arguments that `words` stand for, by parameter name, with the overrides of an open-ended
    command.

    Raises:
        UsageError: a flag is unknown, given twice, lacks its value or has one of the wrong type; too many
            or too few positional arguments. The message names the word and the nearest right one.
        HelpRequested: `--help` or `-h` was among the words.
    """
    values: dict[str, Any] = {}
    free: list[str] = []
    queue = deque(words)
    while queue:
        word = queue.popleft()
        if word == "--":
            free.extend(queue)
            break
        if word in ("--help", "-h"):
            raise HelpRequested
        if _FLAG.fullmatch(word):
            _take_flag(signature, word, queue, values)
        else:
            free.append(word)
    _take_positionals(signature, free, values)
    missing = [p.label for p in signature.parameters.values() if p.required and p.name not in values]
    if missing:
        _fail(signature, f"{' and '.join(missing)} missing. Usage: {signature.usage}")
    return values


def _take_flag(signature: Signature, word: str, queue: deque[str], values: dict[str, Any]) -> None:
    """Read one flag, and its value from the same or the next word, into `values`."""
    typed, equals, text = word.partition("=")
    value = text if equals else None
    parameter, negated = _find(signature, typed)
    if parameter is None:
        if not _is_override(signature, typed):
            _unknown_flag(signature, typed)
        name = typed[2:].replace("-", "_")
    else:
        name = parameter.name
    if name in values and not (parameter and parameter.is_list):
        _fail(signature, f"{typed} is given twice")
    if parameter is not None and parameter.is_switch:
        if negated and value is not None:
            _fail(signature, f"{typed} takes no value (found {text!r}); write {parameter.label}={text}")
        values[name] = not negated if value is None else _convert(signature, parameter, value)
        return
    if value is None:
        if not queue or _FLAG.fullmatch(queue[0]):
            hint = f"; for a value that begins with '-' write {typed}={queue[0]}" if queue else ""
            _fail(signature, f"{typed} needs a value{hint}")
        value = queue.popleft()
    if parameter is None:
        values[name] = literal_or_text(value)
    elif parameter.is_list:
        values.setdefault(name, []).append(value)
    else:
        values[name] = _convert(signature, parameter, value)


def _find(signature: Signature, typed: str) -> tuple[Parameter | None, bool]:
    """The parameter that a typed flag means, and whether it is the `--no-` form of a switch."""
    if not typed.startswith("--"):
        name = signature.initials.get(typed[1:], "")
        return signature.parameters.get(name), False
    name = typed[2:].replace("-", "_")
    if name in signature.parameters:
        return signature.parameters[name], False
    for prefix in ("no_", "no"):
        switch = signature.parameters.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if switch is not None and switch.is_switch:
            return switch, True
    return None, False


def _is_override(signature: Signature, typed: str) -> bool:
    """Whether a flag that the command does not declare may be an override.

    One that is nearly a declared flag (`--sead`) is taken for a slip: it would be refused later, without the hint.
    """
    if not signature.open_ended or not _ID.fullmatch(typed):
        return False
    alike = nearest(typed[2:].replace("_", "-"), [flag[2:] for flag in _flags(signature)], likeness=0.75)
    return alike is None


def _flags(signature: Signature) -> list[str]:
    """All flags as the user may write them, `--no-` forms included."""
    switches = [flag_name(f"no_{p.name}") for p in signature.parameters.values() if p.is_switch]
    return [flag_name(name) for name in signature.parameters] + switches


def _unknown_flag(signature: Signature, typed: str) -> NoReturn:
    guess = nearest("--" + typed.lstrip("-").replace("_", "-"), _flags(signature))
    own = ", ".join(p.label for p in signature.parameters.values() if not p.positional)
    hint = f"did you mean {guess}?" if guess else f"its flags are {own or 'none'}."
    if not typed.startswith("--"):
        hint += " (A name that begins with '-' goes after ' -- '.)"
    _fail(signature, f"unknown flag {typed}; {hint}")


def _take_positionals(signature: Signature, free: Sequence[str], values: dict[str, Any]) -> None:
    """Hand words that belong to no flag to the positional parameters still open, in order; a list takes the surplus."""
    still_open = [p for p in signature.positionals if p.name not in values]
    surplus = len(free) - len(still_open)
    if surplus > 0 and not any(p.is_list for p in still_open):
        extra = free[len(still_open)]
        hint = " A switch is --flag, --no-flag or --flag=false." if extra.lower() in _TRUE + _FALSE else ""
        _fail(signature, f"unexpected argument {extra!r}.{hint} Usage: {signature.usage}")
    queue = deque(free)
    for parameter in still_open:
        count = 1 + max(0, surplus) if parameter.is_list else 1
        words = [queue.popleft() for _ in range(min(count, len(queue)))]
        if words:
            values[parameter.name] = words if parameter.is_list else _convert(signature, parameter, words[0])


def _convert(signature: Signature, parameter: Parameter, text: str) -> Any:
    try:
        return convert(text, parameter.hint)
    except UsageError as error:
        _fail(signature, f"{parameter.label}: {error}")


def _fail(signature: Signature, message: str) -> NoReturn:
    raise UsageError(f"{signature.name.removeprefix('phnet ')}: {message}")


def convert(text: str, hint: Any) -> Any:
    """`text` as `hint` says: str (as typed), int, float (finite), bool, Literal, or one of these `| None`.

    Raises:
        UsageError: `text` is no such value.
        TypeError: the hint is of another kind (a mistake in the command, not of its user).
    """
    if hint is str:
        return text
    if get_origin(hint) in (Union, types.UnionType):
        return _convert_optional(text, get_args(hint))
    if get_origin(hint) is Literal:
        return _choose(text, get_args(hint))
    if hint is bool:
        if text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        raise UsageError(f"expected true or false, found {text!r}")
    if hint is int:
        if re.fullmatch(r"[-+]?\d+", text):
            return int(text)
        raise UsageError(f"expected a whole number, found {text!r}")
    if hint is float:
        if _NUMBER.fullmatch(text) and math.isfinite(float(text)):
            return float(text)
        raise UsageError(f"expected a number, found {text!r}")
    raise TypeError(f"no rule to read a word as {hint!r}")


def _convert_optional(text: str, hints: tuple[Any, ...]) -> Any:
    kinds = [h for h in hints if h is not type(None)]
    if str in kinds:  # a name, even if the name is `None`
        return text
    if len(kinds) < len(hints) and text.lower() in ("none", "null"):
        return None
    for kind in kinds[:-1]:
        try:
            return convert(text, kind)
        except UsageError:
            continue
    return convert(text, kinds[-1])


def _choose(text: str, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if str(choice) == text:
            return choice
    names = [str(c) for c in choices]
    guess = nearest(text, names)
    hint = f" (did you mean {guess}?)" if guess else ""
    raise UsageError(f"expected one of {', '.join(names)}; found {text!r}{hint}")


def literal_or_text(text: str) -> Any:
    """The value of an override: a number, true/false/none, a quoted string or bracketed literal; else the
    text.

    MONAI's expressions (`$...`, `@id`, `%file`) and anything with a `#` outside brackets and quotes stay
    text.
    """
    constants = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in constants:
        return constants[text.lower()]
    if _NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    if text[:1] in ("'", '"', "[", "(", "{") and text[-1:] in ("'", '"', "]", ")", "}"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return text


def as_fire_words(values: Mapping[str, Any]) -> list[str]:
    """`{"out": "ma#sk"}` -> `["--out='ma#sk'"]`: Python literals, which Fire reads back as the same values."""
    return [f"--{name}={value!r}" for name, value in values.items()]
