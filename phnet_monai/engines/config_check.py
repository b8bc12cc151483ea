"""What may stand in a composed config: ids that exist, components that can be found, values of the right kind.

MONAI takes a misspelt id silently and a value of the wrong kind until a component chokes on it. Expressions (`$`, `@`,
`%`) are not looked into: what they give is known when they run.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import math
from collections.abc import Mapping
from functools import cache
from pydoc import locate
from typing import Any

from monai.bundle import ReferenceResolver
from monai.bundle.config_item import ComponentLocator

SEPARATOR = "#"
COMPONENT_KEYS = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_")


class ConfigError(ValueError):
    """A configuration names something that does not exist, or holds a value of the wrong kind."""


def check_entry(config: Any, key: str, value: Any, origin: str) -> None:
    """Check one entry before it is laid over `config`.

    Args:
        config: what the entry is laid over; key: an id as in MONAI (`apa#threshold`), or an argument of the component
            that it points into; value: plain JSON; origin: file or command line, for the message.

    Raises:
        ConfigError: no such id (names the nearest one); a value of another kind than the present one (text for a
            number, NaN, a number for a component); a component that cannot be found or has no such argument.
    """
    present = find_id(config, key, origin)
    _check_kind(present, value, key, origin)
    _check_components(value, key, origin)


def find_id(config: Any, key: str, origin: str) -> Any:
    """What the id holds now: its value, or the default of its component's argument (None where it has none).

    Raises:
        ConfigError: there is no such id; names the nearest one.
    """
    node: Any = config
    walked: list[str] = []
    for part in key.split(SEPARATOR):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, dict) and part in node:
            node = node[part]
        elif isinstance(node, dict) and part in _arguments(node):
            return _arguments(node)[part]
        else:
            known = list(node) + list(_arguments(node)) if isinstance(node, dict) else []
            where = f"in {SEPARATOR.join(walked)!r}" if walked else "at the top"
            hint = _did_you_mean(part, known, SEPARATOR.join([*walked, ""]))
            raise ConfigError(f"{origin}: {key!r} does not exist: there is no {part!r} {where} of the config{hint}")
        walked.append(part)
    return node


def _did_you_mean(name: str, known: list[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, [one for one in known if one not in COMPONENT_KEYS], n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else ""


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    """Names that a component dictionary may have, with the defaults of its `_target_` (None where it has none)."""
    target = node.get("_target_")
    keys: dict[str, Any] = dict.fromkeys(COMPONENT_KEYS if target else ())
    found = _component(target) if isinstance(target, str) else None
    if not callable(found):
        return keys
    parameters = inspect.signature(found).parameters.values()
    return keys | {p.name: None if p.default is p.empty else p.default for p in parameters}


@cache
def _component(target: str) -> Any:
    """The class or function of a `_target_`, found as MONAI finds it; None where there is none."""
    path = target
    if "." not in target:
        module = ComponentLocator().get_component_module_name(target)
        path = f"{module}.{target}" if isinstance(module, str) else target
    try:
        return locate(path)
    except Exception:  # pydoc wraps whatever the import of a module raises
        return None


def _check_syntax(text: str, key: str, origin: str) -> None:
    """Refuse an expression (`$`) that is no Python; references (`@id`) in it stand for any name."""
    try:
        ast.parse(ReferenceResolver.id_matcher.sub("_", text[1:]).strip())
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        raise ConfigError(f"{origin}: {key!r} is {text!r}, which is no Python expression ({error})") from error


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value[:1] in ("$", "@", "%")


def _check_kind(present: Any, value: Any, key: str, origin: str) -> None:
    """Refuse a value that cannot stand where `present` stands."""
    if present is None or value is None or _is_expression(present) or _is_expression(value):
        fits, expected = True, ""  # null is what many arguments take for "not used", whatever stands there else
    elif isinstance(present, bool):
        fits, expected = isinstance(value, bool), "true or false"
    elif isinstance(present, int):
        fits, expected = isinstance(value, int) and not isinstance(value, bool), "a whole number"
    elif isinstance(present, float):
        fits, expected = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    elif isinstance(present, str):
        fits, expected = isinstance(value, str), "text"
    elif isinstance(present, (list, tuple)):
        fits, expected = isinstance(value, (list, tuple)), "a list"
    else:
        fits, expected = isinstance(value, dict), "an object with ids or a component, or null"
    if isinstance(value, float) and not math.isfinite(value):
        fits, expected = False, expected or "a finite number"
    if not fits:
        raise ConfigError(f"{origin}: {key!r} is {json.dumps(value)}, expected {expected} (as {_shown(present)})")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_components(value: Any, key: str, origin: str) -> None:
    """Refuse components, at any depth of `value`, that cannot be found or have no such argument; and wrong Python."""
    children: Any = ()
    if isinstance(value, dict):
        _check_component(value, key, origin)
        children = value.items()
    elif isinstance(value, (list, tuple)):
        children = enumerate(value)
    elif isinstance(value, str) and value[:1] == "$":
        _check_syntax(value, key, origin)
    elif key.rpartition(SEPARATOR)[2] == "_target_" and not _is_expression(value) and _component(str(value)) is None:
        raise ConfigError(f"{origin}: {key!r} is {value!r}: there is no such class or function")
    for name, child in children:
        _check_components(child, f"{key}{SEPARATOR}{name}", origin)


def _check_component(node: Mapping[str, Any], key: str, origin: str) -> None:
    target = node.get("_target_")
    if target is None or _is_expression(target):
        return
    found = _component(target) if isinstance(target, str) else None
    if found is None or not callable(found):
        return  # the entry `_target_` itself is named by `_check_components`
    parameters = inspect.signature(found).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [*COMPONENT_KEYS, *(p.name for p in parameters)]
    for name in node:
        if name not in known:
            hint = _did_you_mean(name, known, f"{key}{SEPARATOR}")
            raise ConfigError(
                f"{origin}: {f'{key}{SEPARATOR}{name}'!r} does not exist: {target} takes no {name!r}{hint}"
            )


def config_mistake(error: BaseException) -> ConfigError | None:
    """What to tell the user of an error that MONAI wrapped, where the config itself is at fault; else None.

    At fault it is where an expression fails by itself (a name that it does not know, a division by zero) or a component
    cannot be built from its arguments (too few of them, of a wrong type). What fails while a training runs, which is an
    expression, too, but fails further inside, is no mistake of the config.
    """
    wrapper: BaseException | None = None
    while isinstance(error, RuntimeError) and str(error).startswith("Failed to ") and error.__cause__ is not None:
        wrapper, error = error, error.__cause__
    if wrapper is None:
        return None
    reason = f"{type(error).__name__}: {error}"
    if str(wrapper).startswith("Failed to evaluate") and _innermost_file(error) == "<string>":
        return ConfigError(f"config: {str(wrapper).removeprefix('Failed to evaluate ').strip()} ({reason})")
    built = str(wrapper).startswith("Failed to instantiate") and isinstance(error, (TypeError, AttributeError))
    if not built:
        return None
    component = str(wrapper).split("'")[1]
    return ConfigError(f"config: {component} cannot be built from what the config gives it ({reason})")


def _innermost_file(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else trace.tb_frame.f_code.co_filename
