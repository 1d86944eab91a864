"""Random command lines, made of the commands' own tables of options and of values that nobody should give: the law of `fuzzing` holds.

A case is a number: `MEANSTEP_FUZZ=17 pytest tests/program/test_fuzz_commands.py` runs case 17 alone, `MEANSTEP_FUZZ=0:500` a range.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from meanstep.program.commands import COMMANDS
from meanstep.program.parsing import Flag
from meanstep.program.parsing import flags as flags_of
from meanstep.program.runs import options

from .conftest import stay_home
from .fuzzing import Outcome, called, shortest, shown

SEED, PLAIN, SLOW = 17, 60, 2000

# Lines that are right ----------------------------------------------------------------------------------------------------------------

TINY = "--device cpu --network.width 16 --network.depth 1 --network.heads 2 --batch 8 --warmup 0"
STUDY = "--measure.count 64 --measure.rows 64 --measure.rows-at 16 --measure.steps 1 --measure.times 2 --measure.references 64"
RIGHT = {
    "train": f"train --dry-run --out new --data.source images.npz --samples 16 {TINY}",
    "launch": "launch --dry-run --nodes 1 -- train --out new",
    "sample": "sample run --seeds 0:2 --out new.png --device cpu",
    "evaluate": "evaluate run --count 16 --metrics frechet --device cpu",
    "export": "export run --to torch --out new",
    "cache": "cache images.npz --out new --dry-run --device cpu",
    "doctor": "doctor nets:build --only arguments --device cpu",
    "diagnose": "diagnose nets:build --data rows.npy --budget 0.1 --rows 8 --out page --device cpu",
    "verify": "verify --only rates",
    "reproduce latents": f"reproduce latents --dry-run --out study --data.source images.npz --arms beta@0 --seeds 0 {TINY} {STUDY}",
    "report": "report run",
    "completion": "completion bash",
}
"""A line of each command that ends well, and soon. The others are only given what is certainly wrong."""
START = {
    "push": "push exported owner/name",
    "reproduce toy": "reproduce toy --scale smoke --updates 2 --batch 8 --seeds 0 --sets two_moons --arms plain@1 --workers 1 --out sweep",
    "reproduce mixtures": "reproduce mixtures --scale smoke --updates 2 --batch 8 --seeds 0 --dims 2 --arms plain@1 --workers 1 --out sums",
}
SMALL = (
    "--dry-run",
    "--scale",
    "--updates",
    "--budget",
    "--rows",
    "--count",
    "--samples",
    "--workers",
    "--only",
    "--sets",
    "--dims",
    "--arms",
)
"""What keeps a line's work small."""
THERE = {"images.npz", "rows.npy", "nets.py", "folder", "file", "pipe", "loop", "dangling", "run", "user", "__pycache__"}
"""What the lines name; whatever else one of them makes is gone before the next."""
LEFT_ALONE = {"--help", "--compile", "--parallel", "--dry-run", "--workers"}
"""What would start programs, or ends the dry run."""

# Values that are not -----------------------------------------------------------------------------------------------------------------

LONG, DEEP, DIGITS = "x" * 100_000, "[" * 5000, "1" * 23
ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "{" + ALIASES.strip().replace("\n", ", ") + "}"
TEXTS = ("", " ", "x y", "é̄🦆", "\x1b[31m", "\udcff", "a\x01b", "a\nb", "[bold]", "%s", "~nobody/x", "a:b", "no.module:f", ":", LONG)
NUMBERS = ("", " ", "x", "nan", "1.5", "-1", "1e400", "0x10", "1,5", "--", LONG, "⅓")
REALS = ("", " ", "x", "nan", "-nan", "inf", "-inf", "1,5", "0x1p3", "1e400", LONG)
MAPPINGS = (
    *("", "3", "x", "null", "[]", "[[[", "{a: [}", "{nosuch: 3}", "{1: 2}", "{classes: 3, size: 2}", DEEP, "{a: " * 3000, BOMB, LONG),
    *(
        "{a: &a [*a]}",
        "&a {a: *a}",
        "{a: 2020-99-99}",
        "{a: !!int abc}",
        f"{{a: {'1' * 6000}}}",
        "{a: !!python/name:os.system}",
        "{a: \x07}",
    ),
    *(
        f"{{{name}: {value}}}"
        for name in ("width", "beta", "times")
        for value in (BOMB, "&a [*a]", "&a {x: *a}", "2020-99-99", "{}", "[[1]]")
    ),
    *("{a: !!binary é}", "{a: !!timestamp x}", "{? [a] : b}", "{<<: 3}", "{a: .nan}", "{a: 1:99999999999999999999:9}", '{a: "\\0"}'),
)
PATHS = (
    "",
    "nowhere",
    "folder",
    "pipe",
    "loop",
    "dangling",
    "file/x",
    "/dev/zero",
    "/dev/null",
    "x" * 5000,
    "a\x01b",
    "\udcff",
    "rows.npy/",
    " ",
)
DEVICES = ("", "meta", "cpu:7", "tpu", "CPU", "cuda:", "cuda:99999999999", "cuda:-1", "cpu ", LONG)
SEEDS = ("", "a", "-1", "1-3", "4:2", "0:99999999999", f"0:{DIGITS}", "0:1:2", "1,,2", ":", "1e3", "nan", f"0:{'9' * 5000}", LONG)
LEAST = ("-1", "-0.1", "2", "1e300")
ENORMOUS = ("9223372036854775808", DIGITS)
PAIRS = (("1", "0"), ("nan", "nan"), ("-1", "2"), ("0", "inf"), ("2", "3"), ("x", "1"))

SHARES = {
    *("--method.proxy-decay", "--method.dropout", "--averages.decays", "--averages.widths", "--diagonal-share", "--beta", "--betas"),
    *("--progress", "--tolerance", "--adam-betas"),
}
BOUNDED = {
    *("--batch", "--network.width", "--network.depth", "--network.patch", "--network.heads", "--steps", "--count", "--size", "--classes"),
    *("--dims", "--moments", "--measure.count", "--measure.rows", "--measure.times", "--array"),
}
"""Numbers of what no memory holds enough of, or no time."""
SIGNED = {"--method.omega", "--method.kappa", "--network.time-scale"}
"""Numbers of either sign."""
UNLIMITED = {"--clip"}
"""Numbers that may be infinite."""
FILES = {
    *(
        "--config",
        "--arms-file",
        "--data",
        "--labels-file",
        "--weights",
        "--points",
        "--like",
        "--reference",
        "--held-out",
        "--data.source",
        "--runtime",
    ),
    *("--network.start", "--autoencoder"),
}
UNCERTAIN = {
    "--network",
    "--partition",
    "--time",
    "--split",
    "--image-column",
    "--label-column",
    "--labels",
    "--message",
    "--network.model",
    "--checkpoint",
    "--json",
    "--out",
}
"""Words of which only the command knows whether they can be."""
ODD = ("0", "9223372036854775808", "18446744073709551616", DIGITS, "٣", "1_0", "+5", "9" * 5000, "1e308", "5e-324", "-0", "007")


@dataclass(frozen=True)
class Case:
    """`wrong`: the line cannot be right. `named`: what the complaint has to name one of. `kept`: the words that are the case."""

    words: tuple[str, ...]
    wrong: bool
    named: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def tables() -> dict[str, list[Flag]]:
    """The options of each command."""
    return {name: flags_of(*options.offered(command.load())) for name, command in COMMANDS.items()}


def wrong_values(flag: Flag) -> Sequence[str]:
    """What an option certainly does not take."""
    name = flag.names[0]
    if flag.choices:
        return ("", "x", " ", flag.choices[0] + "x", flag.choices[0].upper() + "_", LONG)
    if name == "--device":
        return DEVICES
    if flag.metavar == "YAML":
        return MAPPINGS
    if flag.metavar == "SEEDS":
        return SEEDS
    if name in FILES or (name == "--average" and flag.metavar == "FILE"):
        return PATHS[name == "--network.start" :]  # where an empty word takes back what a preset or a file starts from
    if name in SHARES:
        return REALS + LEAST
    words = set(flag.metavar.strip("[]").replace(".", "").split())
    if words & {"FLOAT", "P", "SCALE"}:
        return tuple(v for v in (*REALS, *(() if name in SIGNED else ("-1",))) if name not in UNLIMITED or v not in ("inf", "1e400"))
    if words & {"INT", "N", "D"}:
        return (*NUMBERS, *(ENORMOUS if name in BOUNDED else ()), *(("10000000",) if name in ("--network.depth", "--dims") else ()))
    if name == "--sbatch":
        return ("", "=x", "nosuch", "a b=c", "x\ny=1", "=", LONG)
    return () if name in UNCERTAIN or name.startswith("--no") else TEXTS


def odd_values(flag: Flag) -> Sequence[str]:
    """What an option may or may not take."""
    if flag.names[0] in ("--out", "--json"):
        return (
            "",
            "folder",
            "file/x",
            "loop",
            "dangling",
            "pipe/x",
            "nowhere/x.png",
            "x" * 5000 + ".png",
            "a\x01b.png",
            "é.png",
            "\udcff.png",
            " .png",
        )
    return (*ODD, *TEXTS, *NUMBERS, *REALS)


class Maker:
    """Draws command lines."""

    def __init__(self, there: dict[str, list[Flag]]) -> None:
        self.there = there

    def case(self, number: int) -> Case:
        """Case number `number`, always the same."""
        draw = random.Random(f"{SEED}/{number}")
        name = draw.choice([*RIGHT, *RIGHT, *START])
        base = (RIGHT | START)[name].split()
        flags = [flag for flag in self.there[name] if flag.names and flag.names[0] not in LEFT_ALONE and flag.takes != (0, 0)]
        makers: list[Callable[..., Case]] = [self._wrong] * 8 + [self._line] * 2
        if name in RIGHT:
            makers += [self._odd] * 4 + [self._place] * 2
        return draw.choice(makers)(draw, name, base, flags)

    def _wrong(self, draw: random.Random, name: str, base: list[str], flags: list[Flag]) -> Case:
        """One option with a value that it does not take."""
        known = [flag for flag in flags if wrong_values(flag)]
        known += [flag for flag in known if flag.metavar in ("YAML", "SEEDS") or flag.takes[0] == 2] * 3
        return self._valued(draw, base, known, wrong_values, True) if known else self._line(draw, name, base, flags)

    def _odd(self, draw: random.Random, name: str, base: list[str], flags: list[Flag]) -> Case:
        """One option, sometimes two, with a value that it may not take."""
        if not flags:
            return self._line(draw, name, base, flags)
        first = self._valued(draw, base, flags, odd_values, False)
        second = self._valued(draw, list(first.words), flags, odd_values, False)
        return (
            first
            if draw.random() < 0.7 or second.named == first.named
            else Case(second.words, False, first.named + second.named, first.kept + second.kept)
        )

    def _valued(
        self, draw: random.Random, base: list[str], flags: list[Flag], values: Callable[[Flag], Sequence[str]], wrong: bool
    ) -> Case:
        flag = draw.choice(flags)
        count = max(1, flag.takes[0])
        drawn = [draw.choice(values(flag)) for _ in range(count)]
        if flag.names[0] == "--method.window" and wrong:
            drawn = list(draw.choice(PAIRS))
        given = [f"{flag.names[0]}={drawn[0]}"] if any(value.startswith("-") for value in drawn) and count == 1 else [flag.names[0], *drawn]
        words = _without(base, flag.names[0])
        at = words.index("--") if "--" in words else len(words)
        return Case((*words[:at], *given, *words[at:]), wrong, (flag.names[0],), (given[0],))

    def _place(self, draw: random.Random, name: str, base: list[str], flags: list[Flag]) -> Case:
        """The word that has no option, as something else; no complaint has to name an option."""
        at = len(name.split())
        if name in ("launch", "train", "verify", "reproduce latents"):
            return self._line(draw, name, base, flags)
        value = draw.choice((*PATHS, *TEXTS))
        return Case((*base[:at], value, *base[at + 1 :]), value not in ("",), (), (value,))

    def _line(self, draw: random.Random, name: str, base: list[str], flags: list[Flag]) -> Case:
        """A line of a wrong form: an option twice, without its value, with a letter too many, or a word too many."""
        n = len(name.split())
        if not flags:
            return Case((*base, draw.choice(TEXTS[2:])), True)
        flag = draw.choice(flags)
        option = flag.names[0]
        strange = draw.choice([f"{option}x", option[:-1] + "-" + option[-1:], option.upper(), f"--x.{option[2:]}"])
        form = draw.choice(["twice", "strange", "missing", "loose", "short"])
        if form == "twice":
            return Case((*base[:n], option, "1", option, "1", *_without(base[n:], option)), True, (option,), (option,))
        if form == "missing" and flag.takes[0] and "--" not in base:
            return Case((*_without(base, option), option), True, (option,), (option,))
        if form == "loose":
            return Case((*base[:n], draw.choice([w for w in TEXTS if w and not w.isspace()]), *base[n:]), True)
        if form == "short":
            return Case((*base[:n], option[: max(4, len(option) // 2)] + "~", "1", *base[n:]), True)
        return Case((*base[:n], strange, "1", *base[n:]), True, (strange.lstrip("-"),), (strange,))


def _without(words: list[str], option: str) -> list[str]:
    """The words without an option and its values."""
    if option not in words:
        return list(words)
    at = words.index(option)
    end = at + 1
    while end < len(words) and not words[end].startswith("--"):
        end += 1
    return words[:at] + words[end:]


# The law -----------------------------------------------------------------------------------------------------------------------------


def furnish(here: Path) -> None:
    """What the lines name, in a folder."""
    random_ = np.random.default_rng(0)
    images = random_.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    np.savez(here / "images.npz", images=images, labels=np.arange(24) % 3, classes=["a", "b", "c"])
    np.save(here / "rows.npy", random_.normal(size=(64, 2)).astype(np.float32))
    (here / "nets.py").write_text("import meanstep as ms\n\n\ndef build(width=8):\n    return ms.MLP(2, width, 1)\n", encoding="utf-8")
    (here / "folder").mkdir()
    (here / "file").write_text("x", encoding="utf-8")
    os.mkfifo(here / "pipe")
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("nowhere")
    words = f"train --out run --quiet --data.source images.npz --samples 16 --evaluate-every 0 {TINY}".split()
    done = called(words, here, 300)
    assert done.code == 0, done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that the lines are typed in, which is home and cache too."""
    here = tmp_path_factory.mktemp("commands").resolve()
    with pytest.MonkeyPatch.context() as patch:
        settle(here, patch)
        yield here


def settle(here: Path, patch: pytest.MonkeyPatch) -> None:
    """Move there with everything that a program may ask for."""
    patch.chdir(here)
    for name, folder in (("MEANSTEP_CACHE", "user"), ("HOME", "."), ("XDG_CACHE_HOME", "user"), ("TMPDIR", ".")):
        patch.setenv(name, str(here / folder))
    patch.setattr("tempfile.tempdir", str(here))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(here / "inductor"))  # or torch sets it, for the whole process
    patch.setattr("os.fsync", lambda handle: None)  # a slow disk hangs no command
    stay_home(patch)
    furnish(here)


def asked(numbers: range) -> range:
    """The cases: those that are asked for in the environment, or all of them."""
    first, colon, end = os.environ.get("MEANSTEP_FUZZ", "").partition(":")
    return range(int(first), int(end) if colon else int(first) + 1) if first else numbers


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker(tables())


def judged(case: Case, here: Path) -> str:
    """The article of the law that a case breaks."""
    for path in [*(path for path in here.iterdir() if path.name not in THERE), *(here / "folder").iterdir()]:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    outcome: Outcome = called(case.words, here)
    return outcome.broken(case.wrong, case.named if outcome.code else ())


def told(number: int, case: Case, here: Path) -> str:
    """What is wrong with a case, and how to see it again; empty if nothing is."""
    if not (article := judged(case, here)):
        return ""
    least = list(case.words)
    if not article.startswith("hangs"):
        least = shortest(
            case.words, (*case.kept, *SMALL), lambda words: judged(Case(tuple(words), case.wrong, case.named, case.kept), here)
        )
    return f"case {number} (MEANSTEP_FUZZ={number}): {article}\n  meanstep {shown(least)}"


def test_the_lines_that_the_cases_start_from_are_right(place: Path):
    for name, line in RIGHT.items():
        outcome = called(line.split(), place, 300)
        assert (name, outcome.code, "" if outcome.code == 0 else outcome.broken() or outcome.err) == (name, 0, "")


def test_random_command_lines(place: Path, maker: Maker):
    broken = [told(number, maker.case(number), place) for number in asked(range(PLAIN))]
    assert not any(broken), "\n" + "\n".join(filter(None, broken))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(PLAIN, PLAIN + SLOW, 100))
def test_two_thousand_random_command_lines(start: int, place: Path, maker: Maker):
    broken = [told(number, maker.case(number), place) for number in range(start, start + 100)]
    assert not any(broken), "\n".join(filter(None, broken))
