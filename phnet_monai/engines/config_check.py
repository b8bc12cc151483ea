"""What may stand in a composed config: ids that exist, components that can be found, values of the right kind.

MONAI takes a misspelt id silently and a value of the wrong kind until a component chokes on it. What expressions (`$`,
`@`, `%`) and components give is known when they run: it is not looked into.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle import ReferenceResolver
from monai.bundle.config_item import ComponentLocator

SEPARATOR = "#"
COMPONENT_KEYS = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_")

_MISSING = object()


class ConfigError(ValueError):
    """A configuration names something that does not exist, or holds a value of the wrong kind."""


def check_entry(config: Any, base: Any, key: str, value: Any, origin: str) -> None:
    """Check one entry before it is laid over `config`.

    Args:
        config: what the entry is laid over; base: the shipped config under all layers, which tells of what kind a value
            is; key: an id as in MONAI (`apa#threshold`), or an argument of the component that it points into; value:
            plain JSON; origin: file or command line, for the message.

    Raises:
        ConfigError: no such id (names the nearest one); a value of another kind than the base's (text for a number,
            NaN, a number for a component); a component that cannot be found or has no such argument; an expression
            that is no Python.
    """
    present = find_id(config, key, origin)
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{origin}: {key!r} is {value!r}, expected plain values as in JSON ({error})") from error
    for name, part in _parts(value, key):
        _check_part(name, part, origin)
    node = base
    for part in key.split(SEPARATOR):
        node = _child(node, part)
        if node is _MISSING:  # an argument that the base leaves at its default, or a component that an overlay brings
            _check_number(present, value, key, origin)
            return
    _check_kind(node, value, key, origin)


def find_id(config: Any, key: str, origin: str) -> Any:
    """What the id holds now: its value, or the default of its component's argument (None where it has none).

    Raises:
        ConfigError: there is no such id; names the nearest one.
    """
    node: Any = config
    walked: list[str] = []
    for part in key.split(SEPARATOR):
        child = _child(node, part)
        if child is not _MISSING:
            node = child
        elif isinstance(node, dict) and part in _arguments(node):
            return _arguments(node)[part]
        else:
            known = list(node) + list(_arguments(node)) if isinstance(node, dict) else []
            where = f"in {SEPARATOR.join(walked)!r}" if walked else "at the top"
            hint = _did_you_mean(part, known, SEPARATOR.join([*walked, ""]))
            raise ConfigError(f"{origin}: {key!r} does not exist: there is no {part!r} {where} of the config{hint}")
        walked.append(part)
    return node


def _child(node: Any, part: str) -> Any:
    """What a part of an id names within a list or an object; `_MISSING` where there is none."""
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    return node[part] if isinstance(node, dict) and part in node else _MISSING


def _did_you_mean(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, [one for one in known if one not in COMPONENT_KEYS], n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """Names that a component dictionary may have, with the defaults of its `_target_` (None where it has none)."""
    target = node.get("_target_")
    keys: dict[str, Any] = dict.fromkeys(COMPONENT_KEYS if target else ())
    parameters = _parameters(target) if isinstance(target, str) else None
    return keys | {p.name: None if p.default is p.empty else p.default for p in parameters or ()}


def _parameters(target: str) -> list[inspect.Parameter] | None:
    """The arguments of a `_target_`; None where they are not known (no such component, or one written in C)."""
    try:
        return list(inspect.signature(_component(target)).parameters.values())
    except (TypeError, ValueError, ErrorDuringImport):
        return None


@cache
def _component(target: str) -> Any:
    """The class or function of a `_target_`, found as MONAI finds it; None where there is none.

    Raises:
        ErrorDuringImport: its module is there, but fails.
    """
    path = target
    if "." not in target:
        module = ComponentLocator().get_component_module_name(target)
        module = module[0] if isinstance(module, list) else module  # the one that MONAI takes, with a warning
        path = f"{module}.{target}" if module else target
    return locate(path)


def _is_open(value: Any) -> bool:
    """Whether a value is known only when it is computed: an expression, or what a component gives."""
    return (isinstance(value, str) and value[:1] in ("$", "@", "%")) or (
        isinstance(value, dict) and "_target_" in value
    )


def _check_kind(expected: Any, value: Any, key: str, origin: str) -> None:
    """Refuse a value that cannot stand where the base config has `expected`."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is None or value is None or _is_open(value) or (_is_open(expected) and not isinstance(expected, dict)):
        return  # null is what many arguments take for "not used", whatever stands there else
    if isinstance(expected, bool):
        fits, wanted = isinstance(value, bool), "true or false"
    elif isinstance(expected, int):
        fits, wanted = is_number and isinstance(value, int), "a whole number"
    elif isinstance(expected, float):
        fits, wanted = is_number and math.isfinite(value), "a number"
    elif isinstance(expected, str):
        fits, wanted = isinstance(value, str), "text"
    elif isinstance(expected, list):
        fits, wanted = isinstance(value, (list, tuple)), "a list"
    else:
        fits, wanted = isinstance(value, dict), "an object with ids or a component, or null"
    if not fits:
        raise ConfigError(f"{origin}: {key!r} is {json.dumps(value)}, expected {wanted} (as {_shown(expected)})")


def _check_number(default: Any, value: Any, key: str, origin: str) -> None:
    """Refuse text where the default of an argument is a number: of other defaults too little can be told."""
    if not isinstance(default, (int, float)) or isinstance(default, bool) or not isinstance(value, str):
        return
    if not _is_open(value):
        raise ConfigError(f"{origin}: {key!r} is {json.dumps(value)}, expected a number (as {default})")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _parts(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(id, value) of a value and, but for disabled components, of all below it."""
    yield key, value
    if isinstance(value, dict) and not value.get("_disabled_"):
        for name, part in value.items():
            yield from _parts(part, f"{key}{SEPARATOR}{name}")
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from _parts(part, f"{key}{SEPARATOR}{number}")


def _check_part(key: str, value: Any, origin: str) -> None:
    if isinstance(value, dict):
        _check_names(value, key, origin)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{origin}: {key!r} is {json.dumps(value)}, expected a finite number")
    elif isinstance(value, str) and value[:1] == "$":
        _check_expression(value, key, origin)
    elif key.rpartition(SEPARATOR)[2] == "_target_" and not _is_open(value):
        try:
            found = _component(str(value))
        except ErrorDuringImport as error:
            raise ConfigError(f"{origin}: {key!r} is {value!r}, which cannot be imported: {error}") from error
        if found is None:
            raise ConfigError(f"{origin}: {key!r} is {value!r}: there is no such class or function")


def _check_names(node: Mapping[str, Any], key: str, origin: str) -> None:
    """Refuse names that are no text, and arguments that the component does not take."""
    for name in node:
        if not isinstance(name, str):
            raise ConfigError(f"{origin}: {key!r} has the name {name!r}, which is no text")
    target = node.get("_target_")
    parameters = _parameters(target) if isinstance(target, str) and not _is_open(target) else None
    if node.get("_disabled_") or parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [*COMPONENT_KEYS, *(p.name for p in parameters)]
    for name in node:
        if name not in known:
            hint = _did_you_mean(name, known, f"{key}{SEPARATOR}")
            whole = f"{key}{SEPARATOR}{name}"
            raise ConfigError(f"{origin}: {whole!r} does not exist: {target} takes no {name!r}{hint}")


def _check_expression(text: str, key: str, origin: str) -> None:
    """Refuse an expression (`$`) that is no Python; references (`@id`) in it stand for any name."""
    code = ReferenceResolver.id_matcher.sub("_", text[1:]).strip()
    mode = "exec" if code.startswith(("import ", "from ")) else "eval"
    try:
        ast.parse(code, mode=mode)
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        raise ConfigError(f"{origin}: {key!r} is {text!r}, which is no Python expression ({error})") from error


def config_mistake(error: BaseException) -> ConfigError | None:
    """What to tell the user of an error that MONAI wrapped, where the config itself is at fault; else None.

    At fault it is where an expression fails by itself (a name that it does not know, a division by zero), or a
    component's constructor, or the call of it, by the arguments that the config gives (too few, of a wrong type). What
    fails further inside, and all that fails while a training runs, is no mistake of the config.
    """
    wrapper: BaseException | None = None
    while is_wrapper(error):
        wrapper, error = error, error.__cause__  # type: ignore[assignment]
    if wrapper is None:
        return None
    file, line, function = _place(error)
    reason = f"{type(error).__name__}: {error}"
    if str(wrapper).startswith("Failed to evaluate"):
        if file != "<string>" or not function.startswith("<"):  # that of the expression, not of generated code
            return None
        return ConfigError(f"config: {str(wrapper).removeprefix('Failed to evaluate ').strip()} ({reason})")
    if not isinstance(error, (TypeError, AttributeError, RuntimeError)):
        return None
    named = re.match(r"Failed to instantiate component '([^']+)'", str(wrapper))
    if named is None:  # another library's words
        return None
    component = named[1]
    if function not in ("instantiate", "__init__", "__new__", component.rpartition(".")[2]):
        return None
    where = "" if function == "instantiate" else f", {file}, line {line}"
    return ConfigError(f"config: {component} cannot be built from what the config gives it ({reason}{where})")


def is_wrapper(error: BaseException) -> bool:
    """Whether MONAI wrapped this around whatever a component or an expression raised (its `__cause__`)."""
    return isinstance(error, RuntimeError) and str(error).startswith("Failed to ") and error.__cause__ is not None


def _place(error: BaseException) -> tuple[str, int, str]:
    """File, line and function where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "", 0, ""
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno, trace.tb_frame.f_code.co_name
