"""Words of a command line -> typed arguments."""

from __future__ import annotations

from typing import Any, Literal

import fire
import pytest

from phnet_monai.cli.arguments import (
    HelpRequested,
    UsageError,
    as_fire_words,
    bind,
    convert,
    literal_or_text,
    nearest,
    signature_of,
)


def job(
    source: str,
    out: str,
    *,
    model: str,
    overlays: bool = True,
    batch_size: int = 8,
    rate: float = 0.5,
    limit: int | None = None,
    kind: Literal["grouped", "paper"] = "grouped",
    config: list[str] | None = None,
) -> None: ...


def open_job(out: str, *, seed: int = 0, resume: bool = False, **overrides: Any) -> None: ...


JOB = signature_of(job, "phnet job")
OPEN = signature_of(open_job, "phnet open")
GIVEN = ["in", "out", "--model", "m.pt"]

AWKWARD_NAMES = [
    "2024",
    "007",
    "1e3",
    "a,b",
    "None",
    "True",
    "ma#sk",
    "(1, 2)",
    "[x]",
    "{'a': 1}",
    "two words",
    "it's",
    'say "hi"',
    "back\\slash",
    "Brustkrebs-Übung/超声",
    "trailing ",
    "-",
    "a=b",
    "$HOME",
    "line\nfeed",
    "\udcff.png",
    "",
]


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_names_arrive_as_typed_positional_or_flag(name: str) -> None:
    assert bind(JOB, [name, "out", f"--model={name}"]) == {"source": name, "out": "out", "model": name}
    assert bind(JOB, ["in", name, "--model", name])["model"] == name


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_fire_reads_the_words_back_exactly(name: str) -> None:
    got: list[dict[str, Any]] = []

    def command(out: str, *, config: list[str], **overrides: Any) -> None:
        got.append({"out": out, "config": config, **overrides})

    values = {"out": name, "config": [name, "x"], "net#depth": 1.5, "train::x": name, "s": None, "no_y": False}
    fire.Fire({"go": command}, command=["go", *as_fire_words(values)])
    assert got == [values]


def test_defaults_are_left_to_the_command() -> None:
    assert bind(JOB, GIVEN) == {"source": "in", "out": "out", "model": "m.pt"}


@pytest.mark.parametrize("form", ["--batch-size=3", "--batch_size=3", "--batch-size 3", "--batch_size 3", "-b 3"])
def test_spellings_of_a_flag(form: str) -> None:
    assert bind(JOB, [*GIVEN, *form.split()])["batch_size"] == 3


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("--overlays", True),
        ("--no-overlays", False),
        ("--nooverlays", False),
        ("--no_overlays", False),
        ("--overlays=false", False),
        ("--overlays=True", True),
        ("-o", True),
    ],
)
def test_switches(form: str, value: bool) -> None:
    assert bind(JOB, [form, *GIVEN]) == {"source": "in", "out": "out", "model": "m.pt", "overlays": value}


def test_switch_does_not_swallow_the_next_word() -> None:
    assert bind(JOB, ["--overlays", "in", "out", "--model", "m"])["source"] == "in"


def test_flags_may_stand_anywhere_and_positionals_may_be_flags() -> None:
    assert bind(JOB, ["--out", "o", "--model=m", "in"]) == {"source": "in", "out": "o", "model": "m"}


def test_nothing_after_a_double_dash_is_a_flag() -> None:
    assert bind(JOB, ["--model=m", "--", "--in", "-o"]) == {"source": "--in", "out": "-o", "model": "m"}


def test_numbers_choices_and_lists() -> None:
    words = ["--rate", "-1e-3", "--limit", "none", "--kind=paper", "--config", "a,b", "--config=c"]
    got = bind(JOB, [*GIVEN, *words])
    assert (got["rate"], got["limit"], got["kind"], got["config"]) == (-0.001, None, "paper", ["a,b", "c"])
    assert bind(JOB, [*GIVEN, "--limit", "7"])["limit"] == 7


@pytest.mark.parametrize(
    ("words", "found", "offered"),
    [
        ([*GIVEN, "--overlay"], "--overlay", "--overlays"),
        ([*GIVEN, "--batchsize=2"], "--batchsize", "--batch-size"),
        ([*GIVEN, "--no-overlais"], "--no-overlais", "--no-overlays"),
        ([*GIVEN, "-model", "x"], "-model", "--model"),
        ([*GIVEN, "--zzz", "x"], "--zzz", "--rate"),
        ([*GIVEN, "extra"], "'extra'", "Usage"),
        ([*GIVEN, "--overlays", "False"], "'False'", "--flag=false"),
        (["in", "--model", "m"], "OUT", "Usage"),
        (["in", "out"], "--model", "Usage"),
        (["in", "out", "--model"], "--model", "needs a value"),
        (["in", "out", "--model", "--overlays"], "--model", "--model=--overlays"),
        ([*GIVEN, "--model", "n"], "--model", "twice"),
        ([*GIVEN, "--no-overlays=true"], "--no-overlays", "--overlays=true"),
        ([*GIVEN, "--batch-size", "2.5"], "--batch-size", "whole number"),
        ([*GIVEN, "--batch-size", "1_0"], "'1_0'", "whole number"),
        ([*GIVEN, "--rate", "nan"], "--rate", "number"),
        ([*GIVEN, "--rate", "1e999"], "--rate", "number"),
        ([*GIVEN, "--overlays=3"], "--overlays", "true or false"),
        ([*GIVEN, "--kind", "papr"], "papr", "did you mean paper"),
    ],
)
def test_a_wrong_line_is_refused_by_name(words: list[str], found: str, offered: str) -> None:
    with pytest.raises(UsageError) as error:
        bind(JOB, words)
    assert found in str(error.value)
    assert offered in str(error.value)
    assert str(error.value).startswith("job: ")


@pytest.mark.parametrize("words", [["--help"], ["in", "-h"], [*GIVEN, "--help", "--nonsense"]])
def test_help(words: list[str]) -> None:
    with pytest.raises(HelpRequested):
        bind(JOB, words)


def test_help_as_a_value_or_behind_a_double_dash_is_no_help() -> None:
    assert bind(JOB, ["a", "--model=--help", "--", "--help"])["out"] == "--help"


def test_overrides_are_collected_with_their_types() -> None:
    words = ["o", "--optimizer#lr", "0.01", "--max-epochs=3", "--net", "None", "--resume", "--a::b", "$@x + 1"]
    assert bind(OPEN, words) == {
        "out": "o",
        "optimizer#lr": 0.01,
        "max_epochs": 3,
        "net": None,
        "resume": True,
        "a::b": "$@x + 1",
    }


@pytest.mark.parametrize(("word", "offered"), [("--sead", "--seed"), ("--resum", "--resume"), ("-x", "seed")])
def test_a_slip_in_a_flag_is_no_override(word: str, offered: str) -> None:
    with pytest.raises(UsageError, match=offered):
        bind(OPEN, ["o", word, "3"])


@pytest.mark.parametrize("word", ["--=3", "--1", "--a b=3", "--#=1"])
def test_what_is_no_id_is_no_override(word: str) -> None:
    with pytest.raises(UsageError, match="unknown flag"):
        bind(OPEN, ["o", word, "3"])


@pytest.mark.parametrize("words", [["o", "--max_epochs"], ["o", "--max_epochs", "--seed", "1"]])
def test_an_override_needs_a_value(words: list[str]) -> None:
    with pytest.raises(UsageError, match="needs a value"):
        bind(OPEN, words)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("[1, 2.5]", [1, 2.5]),
        ("'3'", "3"),
        ("{'a': [1]}", {"a": [1]}),
        ("3#4", "3#4"),
        ("ma#sk", "ma#sk"),
        ("a,b", "a,b"),
        ("$@max_epochs // 2", "$@max_epochs // 2"),
        ("@device", "@device"),
        ("nan", "nan"),
        ("[x", "[x"),
        ("[x]", "[x]"),
        ("1_000", "1_000"),
        ("", ""),
    ],
)
def test_values_of_overrides(text: str, value: Any) -> None:
    got = literal_or_text(text)
    assert got == value
    assert type(got) is type(value)


def test_an_optional_name_keeps_the_name_none() -> None:
    assert convert("None", str | None) == "None"
    assert convert("None", int | None) is None


def test_a_command_with_an_unreadable_hint_is_a_defect_not_a_user_error() -> None:
    with pytest.raises(TypeError, match="dict"):
        convert("x", dict)


def test_nearest() -> None:
    assert nearest("infr", ["train", "infer"]) == "infer"
    assert nearest("xyz", ["train", "infer"]) is None


def many(first: list[str], second: str, third: str, *, flag: bool = False) -> None: ...


MANY = signature_of(many, "phnet many")


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["a", "b", "c"], (["a"], "b", "c")),
        (["a", "1e3", "a,b", "None", "c"], (["a", "1e3", "a,b"], "None", "c")),
        (["--first", "x", "--first=y", "b", "c"], (["x", "y"], "b", "c")),
        (["a", "b", "--third", "z", "c"], (["a", "b"], "c", "z")),
    ],
)
def test_a_positional_list_takes_the_surplus(words: list[str], values: tuple[list[str], str, str]) -> None:
    found = bind(MANY, words)
    assert (found["first"], found["second"], found["third"]) == values
    got: list[Any] = []

    def command(first: list[str], second: str, third: str, *, flag: bool = False) -> None:
        got.append((first, second, third))

    fire.Fire(command, command=as_fire_words(found), serialize=lambda _: None)
    assert got == [values]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], r"THIRD missing. Usage: phnet many FIRST \[FIRST ...\] SECOND THIRD \[flags\]"),
        ([], "FIRST and SECOND and THIRD missing"),
        (["--first", "x", "a", "b", "c"], "unexpected argument 'c'"),
    ],
)
def test_too_few_or_many_beside_a_positional_list(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bind(MANY, words)
