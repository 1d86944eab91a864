"""The words that all commands share: seeds, dictionaries, devices; one meaning for each option; no torch before it is needed."""

import functools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from meanstep import cli
from meanstep.fields.planar import PLANAR
from meanstep.program import flags
from meanstep.program.commands import COMMANDS
from meanstep.program.console import UserError
from meanstep.program.parsing import Flag
from meanstep.program.parsing import flags as flags_of
from meanstep.program.reproduce.points.settings import SETS
from meanstep.program.runs import options


@functools.cache
def known() -> dict[str, list[Flag]]:
    """The flags of every command."""
    return {name: flags_of(*options.offered(command.load())) for name, command in COMMANDS.items()}


# Values ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [("0:4", (0, 1, 2, 3)), ("3,5,8", (3, 5, 8)), ("0:2,7", (0, 1, 7)), ("7", (7,)), ("2,0:4", (2, 0, 1, 3)), (" 1 , 2", (1, 2))],
)
def test_seeds(text: str, found: tuple[int, ...]):
    assert flags.seeds(text) == found and flags.seeds(flags.shown_seeds(found)) == found


@pytest.mark.parametrize("text", ["", "a", "-1", "1-3", "3:", ":3", "1,,2", "0:1:2", "1.5", "4:4", "5:2"])
def test_what_is_no_set_of_seeds(text: str):
    with pytest.raises(UserError, match="--seeds"):
        flags.seeds(text)


def test_seeds_are_shown_as_they_are_read():
    assert [flags.shown_seeds(s) for s in [(0, 1, 2, 3), (0, 1), (3, 5, 6, 7, 9), (4,)]] == ["0:4", "0,1", "3,5:8,9", "4"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{width: 64}", {"width": 64}),
        ('{"width": 64, "name": "a", "deep": {"x": [1, 2]}, "on": true, "no": null}', None),
        ("{a: 1e-3, b: -2E5, c: 0.5, d: [1e-8, x]}", {"a": 1e-3, "b": -2e5, "c": 0.5, "d": [1e-8, "x"]}),
        ("{}", {}),
        ("{beta: {linear: [0, 1]}, proxy: ema}", {"beta": {"linear": [0, 1]}, "proxy": "ema"}),
    ],
)
def test_options_are_yaml_and_json_is_yaml(text: str, found: dict | None):
    wanted = json.loads(text) if found is None else found
    assert flags.options(text) == wanted and flags.options(flags.shown_options(wanted)) == wanted


@pytest.mark.parametrize("text", ["", "3", "[1]", "width=3", "{a: [}", "a", "{1: 2}"])
def test_what_is_no_mapping(text: str):
    with pytest.raises(UserError, match=r"^options are "):
        flags.options(text)


def test_devices_and_factories_are_spelled():
    assert [flags.device(name) for name in ("cpu", "auto", "mps", "cuda", "cuda:3")]
    for wrong in ("gpu", "cuda:", "cuda:x", "CPU", "meta"):
        with pytest.raises(UserError, match="--device"):
            flags.device(wrong)
    flags.factory("a.b:C.d")
    for wrong in ("a", "a:", ":b", "a b:c", "a/b:c"):
        with pytest.raises(UserError, match=r"package\.module:factory"):
            flags.factory(wrong)


def test_the_names_of_the_sets_are_those_that_can_be_drawn():
    assert tuple(PLANAR) == SETS


# One vocabulary ----------------------------------------------------------------------------------------------------------------------

OLD = {
    *("--ema", "--checkpoints", "--factory", "--kwargs", "--lr", "--print", "--label", "--image", "--reference-count"),
    *("--run.samples", "--run.batch", "--run.device", "--optimiser.rate", "--optimiser.betas"),
}
SHARED = ["--out", "--seed", "--seeds", "--device", "--json", "--steps", "--workers", "--average", "--checkpoint", "--network", "--batch"]


def every(name: str) -> dict[str, Flag]:
    """The flag of that name in each command that has it."""
    return {command: flag for command, there in known().items() for flag in there if name in flag.names}


def test_old_words_are_gone():
    names = {name for there in known().values() for flag in there for name in flag.names}
    assert names & OLD == set() and not [name for name in names if name.startswith(("--run.", "--optimiser."))]
    assert names >= set(SHARED)


def test_a_word_has_one_meaning():
    """What help says of it, up to the first stop, is the same in all commands; the rest is what this command makes of it."""
    names = sorted({flag.names[0] for there in known().values() for flag in there if flag.names})
    meanings = {
        name: {re.split(r"[:.;,]", flag.help.partition(" (default")[0])[0].strip() for flag in every(name).values()} for name in names
    }
    assert len(names) > 100 and {name: said for name, said in meanings.items() if len(said) != 1 or said == {""}} == {}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_shows_what_happens_without_an_option(name: str):
    for flag in known()[name]:
        told = re.search(r"\(default: (.*)\)|\(required\)", flag.help, re.S)
        assert told, flag
        assert told[1] not in ("", "''", "None", "-1", ".", "'{}'", "()"), flag
        assert "None" not in flag.metavar and "None" not in flag.help and "1099511627776" not in flag.help, flag


def test_every_device_is_auto_and_every_json_no_file():
    assert all(flag.help.endswith("(default: auto)") for flag in every("--device").values()) and len(every("--device")) == 12
    assert all(flag.help.endswith("(default: no file)") for flag in every("--json").values())


# Before torch ------------------------------------------------------------------------------------------------------------------------

MISTAKES = {
    "sample nowhere": "there is no folder nowhere",
    "sample nowhere --stps 3": "there is no option --stps; did you mean --steps?",
    "sample nowhere --steps": "--steps takes a value: N",
    "sample nowhere --steps x": "--steps: a whole number, got 'x'",
    "sample nowhere --steps 1 --steps 2": "--steps is given twice",
    "sample": "give RUN",
    "sample a b": "there is no place for 'b'",
    "sample nowhere --guidance much": "--guidance: a number, got 'much'",
    "sample nowhere --out x.gif": "--out: a folder, or a name that ends in .png",
    "sample nowhere --seeds 4:2": "--seeds",
    "evaluate nowhere --metrics fid": "--metrics: there is no metric 'fid'",
    "evaluate nowhere --extractor pixel": "did you mean pixels?",
    "evaluate nowhere --checkpoint newest": "there is no folder nowhere",
    "train --width 3": "did you mean --network.width?",
    "train --run.batch 3": "did you mean --batch?",
    "train --batch 0": "--batch: at least 1 and at most 1048576, got 0",
    "train --precision f3": "--precision: one of float32",
    "train --preset digit": "there is no preset 'digit': did you mean digits?",
    "train --config nowhere.yaml": "--config: cannot read nowhere.yaml",
    "train --data.source nowhere": "nowhere does not exist",
    "train --method.recipe meenflow": "did you mean meanflow?",
    'train --method.options {"betta":1}': "recipe meanflow has no option 'betta'",
    "sample nowhere --sampler rk4": "there is no sampler 'rk4'",
    "diagnose a:b --recipe meenflow": "did you mean meanflow?",
    "train --loggers paper": "--loggers: tensorboard",
    "train --device tpu": "--device: cpu, cuda, cuda:N, mps or auto, got 'tpu'",
    "train --method.window 1": "--method.window takes 2 values",
    "train --network.start nowhere": "--network.start: there is no folder or file nowhere",
    "launch --nodes 0 -- train": "--nodes: at least 1 and at most 100000, got 0",
    "launch": "give the command to launch after --",
    "cache digits": "give --out FOLDER",
    "cache nowhere --out made": "nowhere does not exist",
    "cache digits --out made --autoencoder taesd:nowhere": "cannot read nowhere",
    "doctor nets": "package.module:factory, got 'nets'",
    "doctor a:b --options 3": "options are names with values",
    "doctor a:b --only luck": "there is no check 'luck'",
    "diagnose nowhere": "there is no folder or file 'nowhere'",
    "diagnose a:b": "give the rows that it is trained on",
    "diagnose a:b --data nowhere.npy": "cannot read nowhere.npy",
    "verify --only rate": "did you mean rates?",
    "reproduce toy --arms papper": "there is no arm 'papper'",
    "reproduce toy --points nowhere.csv": "cannot read nowhere.csv",
    "reproduce mixtures --dims 1": "--dims: at least 2 and at most 256, got 1",
    "reproduce latents --arms schedule": "did you mean schedules?",
    "reproduce latents --seed 3": "did you mean --seeds?",
    "report nowhere": "nowhere holds no run and no sweep",
    "completion tcsh": "one of bash, zsh, fish, got 'tcsh'",
    "help samples": "did you mean `meanstep sample`?",
}
SCRIPT = """
import contextlib, functools, inspect, io, json, sys
from meanstep.cli import main
inspect.getsource = functools.cache(inspect.getsource)  # of the classes whose flags' texts stand in comments
found = {}
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(line.split())
        except SystemExit as end:
            code = end.code
    heavy = [name for name in ("torch", "numpy", "scipy", "PIL", "matplotlib") if name in sys.modules]
    found[line] = [code, out.getvalue(), err.getvalue(), heavy]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Exit code, outputs and heavy modules after each line, all in one fresh interpreter; and what is on disk afterwards."""
    here = tmp_path_factory.mktemp("answers")
    lines = [*(f"{name} --help" for name in COMMANDS), "help reproduce toy", "train --preset list", "completion bash", *MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=json.dumps(lines), capture_output=True, text=True, check=True, cwd=here, timeout=100
    )
    found: dict[str, list] = json.loads(done.stdout)
    found["disk"] = [str(path) for path in here.rglob("*")]
    return found


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_needs_no_torch(name: str, answers: dict[str, list]):
    code, said, complaint, heavy = answers[f"{name} --help"]
    assert (code, complaint, heavy) == (0, "", [])
    assert f"usage: meanstep {name} " in said and f"$ meanstep {name}" in said and "--quiet" in said


@pytest.mark.parametrize("line", list(MISTAKES))
def test_a_mistake_is_one_line_before_torch_and_leaves_nothing(line: str, answers: dict[str, list]):
    code, said, complaint, heavy = answers[line]
    assert (code, said, heavy, answers["disk"]) == (2, "", [], [])
    assert complaint.startswith("meanstep: ") and complaint.count("\n") == 1 and MISTAKES[line] in complaint


def test_help_of_a_command_and_a_list_need_no_torch(answers: dict[str, list]):
    assert answers["help reproduce toy"][1] == answers["reproduce toy --help"][1]
    assert "digits" in answers["train --preset list"][1] and answers["train --preset list"][3] == []


def test_a_mistake_in_a_folder_of_something_else_leaves_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "thesis.tex").write_text("x")
    for line in ("train", "reproduce toy", "reproduce latents"):
        with pytest.raises(SystemExit) as stop:
            cli.main([*line.split(), "--out", str(tmp_path)])
        assert stop.value.code == 2 and "is not empty and holds no" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# What the documentation says ---------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "studies").rglob("*.md")),
    *sorted((ROOT / "studies").rglob("*.sh")),
]
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands_of(page: Path) -> list[str]:
    """The lines of a page's shell blocks, or of a script, that call meanstep; continued lines are one."""
    text = page.read_text(encoding="utf-8")
    blocks = [text] if page.suffix == ".sh" else BLOCK.findall(text)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if re.match(r"(\.venv/bin/)?meanstep\s", line)]


OF_SCRIPTS = {"seed": "0", "recipe": "meanflow", "precision": "bf16", "rows": "all", "@": ""}
"""What a variable of a script stands for, where a name of a folder will not do."""


def written_out(line: str) -> str:
    """A script's command with values for its variables, up to a pipe."""
    full = re.sub(r"\$\([^)]*\)", "{}", line)
    full = re.sub(r"\$\{(\w+)[^}]*\}|\$(\w+|@)", lambda found: OF_SCRIPTS.get(found[1] or found[2], "folder"), full)
    return full.partition(" | ")[0]


DOCUMENTED = {written_out(line): page.relative_to(ROOT).as_posix() for page in reversed(PAGES) for line in commands_of(page)}
"""Each command with the first page that has it."""


def test_the_pages_hold_commands():
    assert len(DOCUMENTED) > 40 and len(set(DOCUMENTED.values())) > 8


@pytest.mark.parametrize("line", DOCUMENTED, ids=[f"{page}: {line[:70]}" for line, page in DOCUMENTED.items()])
def test_a_command_of_the_documentation_is_understood(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its options are there and have such values; whether its files are is another matter."""
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in ("...", "--quiet", "")]
    monkeypatch.chdir(tmp_path)
    name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS)
    cli.chosen(name, words[len(name.split()) :])
