"""Numbers out of their range, and other options that cannot be: what is said of them, on a command line, in a file and in Python alike."""

import dataclasses
import re
from pathlib import Path

import pytest

from meanstep.program import ranges
from meanstep.program.commands import COMMANDS
from meanstep.program.console import UserError
from meanstep.program.parsing import flags as flags_of
from meanstep.program.ranges import Ranged, natural, ranged, wrong
from meanstep.program.runs import options
from meanstep.program.runs.config import Config, NetworkConfig, from_yaml

from .fuzzing import called

HUGE, DIGITS = str(2**63), "1" * 23
LINES = {
    "diagnose nets:build --diagonal-share nan": ("--diagonal-share", "nan", "at least 0 and at most 1"),
    "reproduce toy --diagonal-share nan --out new": ("--diagonal-share", "nan", "more than 0 and less than 1"),
    f"train --out new --batch {HUGE}": ("--batch", HUGE, "at least 1 and at most 1048576"),
    f"diagnose nets:build --batch {HUGE}": ("--batch", HUGE, "at least 1 and at most 1048576"),
    "train --out new --network.options {classes:3}": ("--network.options", "'classes", "width, depth"),
    "train --out new --device meta": ("--device", "'meta'", "cpu, cuda, cuda:N, mps or auto"),
    "doctor nets:build --device cpu:7": ("--device", "'cpu:7'", "cpu, cuda, cuda:N, mps or auto"),
    "sample run --seeds 0:99999999999": ("--seeds", "'0:99999999999'", "at most 10,000,000"),
    f"sample run --steps {DIGITS}": ("--steps", DIGITS, "at least 1 and at most 100000"),
    f"evaluate run --steps {DIGITS}": ("--steps", DIGITS, "at least 1 and at most 100000"),
    f"export run --to torch --out new --steps {DIGITS}": ("--steps", DIGITS, "at least 1 and at most 1000"),
    "doctor nets:build --options [[[": ("--options", "'[[['", "{width: 64}"),
    "train --out new --method.options [[[": ("--method.options", "'[[['", "{width: 64}"),
    "train --out new --method.window 1 0": ("--method.window", "1 0", "the first time is at most the second"),
    "train --out new --method.window nan nan": ("--method.window", "nan", "at least 0 and at most 1"),
    "train --out new --method.proxy-decay nan": ("--method.proxy-decay", "nan", "at least 0 and less than 1"),
    "train --out new --method.proxy-decay 2": ("--method.proxy-decay", "2.0", "at least 0 and less than 1"),
    "train --out new --method.omega=-1": ("--method.omega", "-1.0", "at least 0"),
    "train --out new --method.omega nan": ("--method.omega", "nan", "at least 0"),
    "sample run --guidance=-1": ("--guidance", "-1.0", "at least 0"),
    "sample run --guidance nan": ("--guidance", "nan", "at least 0"),
    "evaluate run --guidance=-1": ("--guidance", "-1.0", "at least 0"),
    "export run --to torch --out new --guidance nan": ("--guidance", "nan", "at least 0"),
    "launch --dry-run --sbatch nosuch -- train": ("--sbatch", "'nosuch'", "NAME=VALUE"),
    "train --out loop": ("--out", "loop", "cannot write"),
    "reproduce toy --out loop": ("--out", "loop", "cannot write"),
    "diagnose nets:build --data rows.npy --out loop": ("--out", "loop", "cannot write"),
    "train --out=": ("--out", "empty", "give the name of a folder"),
    "reproduce toy --out=": ("--out", "empty", "give the name of a folder"),
    "sample run --out=": ("--out", "empty", "give the name of a file"),
    "train --out new --network.depth 10000000": ("--network.depth", "10000000", "at least 1 and at most 1000000"),
    f"reproduce latents --out new --part {'9' * 5000}/1": ("--part", "999", "K/N with 1 <= K <= N"),
    "reproduce toy --out new --points nets.py": ("--points", "nets.py", "give a .csv, .npy or .parquet file"),
    "train --out new --network.data-floor=-0": ("--network.data-floor", "-0.0", "more than 0 and at most 1"),
    "train --out new --network.depth 0": ("--network.depth", "0", "at least 1 and at most 1000000"),
}
"""A line that cannot be, with what its complaint names: the option, the value, and what may be given."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a link to itself."""
    here = tmp_path_factory.mktemp("ranges").resolve()
    (here / "loop").symlink_to("loop")
    (here / "nets.py").write_text("import meanstep as ms\n\n\ndef build():\n    return ms.MLP(2, 8, 1)\n", encoding="utf-8")
    return here


@pytest.mark.parametrize("line", LINES)
def test_a_complaint_names_the_option_the_value_and_what_may_be_given(line: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    outcome = called([word.replace("{classes:3}", "{classes: 3}") for word in line.split()], place)
    assert outcome.broken(wrong=True) == "" and outcome.code == 2
    assert outcome.err.startswith(f"meanstep: {LINES[line][0]}: ") and len(outcome.err.splitlines()) == 1
    assert all(word in outcome.err for word in LINES[line]), outcome.err


# A range holds wherever its number comes from ------------------------------------------------------------------------------------------

PARTS = [f.name for f in dataclasses.fields(Config) if isinstance(getattr(Config(), f.name), Ranged)]
NUMBERS = [(part, *number) for part in PARTS for number in ranges._numbers(type(getattr(Config(), part)))]


def beyond(kind: type, words: str) -> float:
    """The number beside the first bound of a range, on its wrong side."""
    bound = re.search(r"(from|above) (-?[\d.]+)", words)
    assert bound, words
    edge = kind(bound[2])
    return edge if bound[1] == "above" else edge - 1


@pytest.mark.parametrize(("part", "name", "flag", "kind", "words"), NUMBERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_range_holds_in_python_in_a_file_and_on_a_command_line(part: str, name: str, flag: str, kind: type, words: str, place: Path):
    base = getattr(Config(), part)
    many = len(getattr(base, name)) or 1 if isinstance(getattr(base, name), tuple) else 0
    value = beyond(kind, words)
    given = (value,) * many if many else value
    said = rf"--{base.PREFIX}{flag}: .*, got {re.escape(str(value))}$"
    with pytest.raises(UserError, match=said):
        dataclasses.replace(base, **{name: given})
    with pytest.raises(UserError, match=rf"a\.yaml.*{said}"):
        from_yaml(f"{part}: {{{name}: {list(given) if many else given}}}", "a.yaml")  # type: ignore[call-overload]
    option = f"--{base.PREFIX}{flag}"
    outcome = called(["train", "--out", "new", *([option, *[str(value)] * many] if many else [f"{option}={value}"])], place)
    assert outcome.code == 2 and option in outcome.err, outcome


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("depth", 10**7), ("heads", -1), ("ratio", float("nan")), ("data_floor", 2.0)])
def test_a_range_of_a_network_holds_in_python_and_in_a_file(name: str, value: float):
    with pytest.raises(UserError, match=rf"--network\.{name.replace('_', '-')}: .*(at least|more than) .*, got {value}"):
        options.resolved(NetworkConfig(options={name: value}))
    text = f"network: {{options: {{{name}: {'.nan' if value != value else value}}}}}"
    with pytest.raises(UserError, match=rf"--network\.{name.replace('_', '-')}: "):
        options.resolved(from_yaml(text, "a.yaml").network)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_range_of_every_number(name: str):
    for flag in flags_of(*options.offered(COMMANDS[name].load())):
        if set(flag.metavar.strip("[]").split()) & {"INT", "FLOAT", "N", "P", "SCALE", "SHARE", "BETA"}:
            assert ranges.BOUND.search(flag.metavar), (flag.names, flag.metavar)


@pytest.mark.parametrize(
    ("value", "kind", "words", "said"),
    [
        (3, int, "INT from 1", ""),
        (True, int, "INT from 0", "a whole number"),
        (2.0, int, "INT from 0", "a whole number"),
        ("3", float, "FLOAT", "a number"),
        (2**63, int, "INT from 1", f"at least 1 and at most {2**63 - 1}"),
        (float("inf"), float, "FLOAT from 0", "a finite number at least 0"),
        (float("inf"), float, "FLOAT from 0 or inf", ""),
        (float("nan"), float, "FLOAT from 0 or inf", "a number at least 0"),
        (float("nan"), float, "FLOAT", "a number"),
        (0.0, float, "FLOAT above 0", "more than 0"),
        (1.0, float, "FLOAT from 0 below 1", "at least 0 and less than 1"),
        (1.0, float, "FLOAT from 0 to 1", ""),
    ],
)
def test_what_a_number_should_be(value: object, kind: type, words: str, said: str):
    assert wrong(value, kind, words) == said


def test_an_empty_word_is_no_value():
    @dataclasses.dataclass(frozen=True)
    class Named(Ranged):
        name: str | None = None
        rows: "ranges.Annotated[int, ranged('INT from 1')]" = 1

    assert Named().name is None and Named("x").name == "x"
    for word in ("", " "):
        with pytest.raises(UserError, match="--name: it is empty"):
            Named(word)


def test_a_file_with_a_slash_at_its_end_is_no_folder(place: Path, monkeypatch: pytest.MonkeyPatch):
    """The option is named that has it, not another one of nearly the same value."""
    monkeypatch.chdir(place)
    for words, named in (
        ("diagnose nets:build --data nets.py/", "--data: "),
        ("diagnose nets:build --data nets.py --average nets.py/", "--average: "),
        ("sample nets.py/", ""),
        ("diagnose nets.py/ --data nets.py", ""),
    ):
        outcome = called(words.split(), place)
        assert outcome.code == 2 and outcome.err.endswith(f"{named}nets.py/ is no folder: leave out the slash at its end\n")


def test_a_word_of_digits_is_a_number_if_there_are_not_thousands_of_them():
    assert [natural(word) for word in ("0", "017", "٣", "1" * 24)] == [0, 17, 3, int("1" * 24)]
    assert [natural(word) for word in ("", "-1", "1.5", "x", "1" * 25, "9" * 5000)] == [None] * 6
