"""The one reader of safetensors, against the safetensors library: what it takes and refuses, and that a file is read once."""

import hashlib
import json
import os
import random
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import meanstep
from meanstep.program.errors import UserError
from meanstep.program.reading import tensors as reading
from meanstep.program.reading.tensors import TYPES, File
from meanstep.program.runs.restored import put
from meanstep.program.runs.saved import Saved

from .damages import tensors as damaged


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """The same names, types, shapes and bytes."""
    forms = [{name: (p.dtype, p.shape, p.contiguous().flatten().view(torch.uint8).tolist()) for name, p in held.items()} for held in (a, b)]
    return forms[0] == forms[1]


def several() -> dict[str, Tensor]:
    """A tensor of each type, one without axes and one without entries."""
    made = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in TYPES.items()}
    return made | {"none": torch.tensor(3.5), "empty": torch.empty(0, 4)}


def sealed(path: Path, head: Any, body: bytes = b"", length: int | None = None) -> Path:
    """A file of this header, which says that it has so many bytes."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def entry(dtype: Any = "F32", shape: Any = (2,), ends: Any = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": ends}}


# What is read ------------------------------------------------------------------------------------------------------------------------


def test_every_type_is_read_as_the_library_reads_it(tmp_path: Path):
    path, wanted = tmp_path / "a.safetensors", several()
    save_file(wanted, path, {"who": "we"})
    file = File.open(path)
    assert same(file.tensors(), load_file(path)) and same(file.tensors(), wanted)
    assert file.facts() == {"who": "we"} and file.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_numbers_that_lie_at_odd_bytes_are_read(tmp_path: Path):
    body = torch.tensor([1.5, -2.0]).numpy().tobytes()
    head = json.dumps(entry()).encode()
    for more in range(4):
        path = sealed(tmp_path / "odd.safetensors", head + b" " * more, body)
        assert File.open(path).tensors()["w"].tolist() == load_file(path)["w"].tolist() == [1.5, -2.0]


def test_what_is_written_into_a_tensor_does_not_reach_the_file(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    save_file({"w": torch.ones(4)}, path)
    File.open(path).tensors()["w"].zero_()
    assert File.open(path).tensors()["w"].tolist() == [1.0] * 4


def test_it_takes_what_the_library_takes_and_refuses_what_it_refuses(tmp_path: Path):
    path, taken = tmp_path / "w.safetensors", 0
    for number in range(300):
        save_file({"a.weight": torch.ones(3, 2), "b": torch.arange(4.0)}, path)
        told = damaged(path, random.Random(number))
        try:
            wanted = load_file(path)
        except (SafetensorError, AttributeError, UnicodeEncodeError):
            wanted = None
        try:
            found = File.open(path).tensors()
        except UserError as error:
            assert wanted is None, (told, error)
        else:
            assert wanted is not None and same(found, wanted), told
            taken += 1
    assert 60 < taken < 240


# What is not -------------------------------------------------------------------------------------------------------------------------

BODY = bytes(8)
HOSTILE: dict[str, tuple[Any, bytes, int | None, str]] = {
    "a header beyond the file": (entry(), BODY, 1 << 40, r"its header would have 1,099,511,627,776 bytes, and \d+ are there"),
    "a header of all that can be said": (entry(), BODY, (1 << 64) - 1, "its header would have 18,446,744,073,709,551,615 bytes"),
    "no header": (b"", BODY, 0, "its header: "),
    "a list": ([], b"", None, r"its header: it holds no entries but \[\]"),
    "a deep header": (b"[" * 50_000, BODY, None, "nested"),
    "no text": (b"\xff\xfe{}", BODY, None, "its header: "),
    "an unknown type": (entry("F4"), BODY, None, "'w' is of type 'F4', which is not read"),
    "a type that is no word": (entry(["F32"]), BODY, None, "'w' is of type"),
    "an entry that is none": ({"w": 3}, BODY, None, "'w' is of type None"),
    "a size beyond the file": (entry(shape=[1 << 62], ends=[0, 1 << 64]), BODY, None, "whole number of more than 64 bits|cannot lie"),
    "a shape of terabytes": (entry(shape=[10**6, 10**6]), BODY, None, r"shape \[1000000, 1000000\] cannot lie at bytes \[0, 8\]"),
    "less than none": (entry(shape=[-2]), BODY, None, r"shape \[-2\] cannot lie"),
    "half a number": (entry(shape=[1.5]), BODY, None, r"shape \[1.5\] cannot lie"),
    "an end before its beginning": (entry(ends=[8, 0]), BODY, None, "cannot lie at bytes"),
    "the end of another file": (entry(ends=[8, 16]), BODY, None, "'w' begins at byte 8, the one before ends at 0"),
    "too few bytes": (entry(), BODY[:4], None, "its tensors have 8 bytes, and 4 are there"),
    "too many bytes": (entry(), BODY + b"x", None, "its tensors have 8 bytes, and 9 are there"),
    "one over the other": (entry() | {"v": entry()["w"]}, BODY, None, "begins at byte 0, the one before ends at 8"),
    "a hundred axes": (entry(shape=[1] * 99 + [2]), BODY, None, "cannot lie"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_one_line_with_a_remedy(case: str, tmp_path: Path):
    head, body, length, words = HOSTILE[case]
    path = sealed(tmp_path / "w.safetensors", head, body, length)
    with pytest.raises(UserError, match=words) as caught:
        File.open(path).tensors()
    assert str(caught.value).startswith(f"cannot read {path}: ") and str(caught.value).endswith("; it is cut short or no safetensors file")
    if case != "a hundred axes":
        with pytest.raises((SafetensorError, AttributeError, UnicodeEncodeError)):
            load_file(path)


def test_a_header_of_more_than_is_read_is_not_held(tmp_path: Path):
    path = tmp_path / "bomb.safetensors"
    with path.open("wb") as file:  # a hole on the disk
        file.write(struct.pack("<Q", 1 << 30))
        file.truncate(1 << 31)
    with pytest.raises(UserError, match="its header would have 1,073,741,824 bytes, and 16,777,216 are read"):
        File.open(path).tensors()


def test_facts_are_texts(tmp_path: Path):
    path = sealed(tmp_path / "w.safetensors", entry() | {"__metadata__": {"step": 3}}, BODY)
    for look in (File.facts, File.tensors):
        with pytest.raises(UserError, match="its metadata are no texts by name"):
            look(File.open(path))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nothing").symlink_to("nowhere")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "short").write_bytes(b"1234567")
    torch.save({"w": torch.ones(2)}, tmp_path / "pickle")
    told = {
        "folder": "a folder",
        "pipe": "a pipe",
        "nothing": "a link to nothing",
        "device": "device",
        "short": "7 bytes",
        "absent": "no such",
    }
    for name, words in (told | {"pickle": "is a pickle, which can run code"}).items():
        with pytest.raises(UserError, match=words):
            File.open(tmp_path / name).tensors()


# What is done with it ----------------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_or_of_another_kind_enter_no_network(tmp_path: Path):
    good = {name: p.clone() for name, p in nn.Linear(2, 2).state_dict().items()}
    wrong = {
        "not finite, e.g. weight": good | {"weight": torch.full((2, 2), float("nan"))},
        "not finite, e.g. bias": good | {"bias": torch.tensor([0, float("inf")])},
        "is damaged: weight is of torch.int64 there": good | {"weight": torch.ones(2, 2, dtype=torch.int64)},
        "is damaged: bias is of torch.bool there": good | {"bias": torch.ones(2, dtype=torch.bool)},
        "is damaged: bias is of torch.complex64 there": good | {"bias": torch.ones(2, dtype=torch.complex64)},
    }
    for words, held in wrong.items():
        net = nn.Linear(2, 2)
        before = net.weight.clone()
        with pytest.raises(UserError, match=words):
            put(net, held, tmp_path)
        assert torch.equal(before, net.weight)
    put(nn.Linear(2, 2), {name: p.half() for name, p in good.items()}, tmp_path)
    reading.finite({"eight": torch.ones(2).to(torch.float8_e4m3fn), "whole": torch.ones(2, dtype=torch.int8)}, "x")


def test_a_checkpoint_is_compared_and_read_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_file({"w": torch.ones(3)}, tmp_path / "model.safetensors")
    data, opened = (tmp_path / "model.safetensors").read_bytes(), list[str]()
    sums = {"model.safetensors": hashlib.sha256(data).hexdigest()}
    saved = Saved(tmp_path, {"sizes": {"model.safetensors": len(data)}, "sha256": sums}, {})
    mapped = torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda name, **how: opened.append(name) or mapped(name, **how))
    monkeypatch.setattr("meanstep.program.runs.saved.sha256", lambda path: pytest.fail(f"{path} is read by itself"))
    assert saved.tensors("model")["w"].tolist() == [1, 1, 1] and len(opened) == 1
    (tmp_path / "model.safetensors").write_bytes(data[:-1] + b"\x01")
    with pytest.raises(UserError, match=r"the bytes of model\.safetensors are not those that were written"):
        saved.tensors("model")


def test_no_file_of_tensors_is_opened_elsewhere():
    root = Path(meanstep.__file__).parent
    others = re.compile(r"safe_open|load_file|safetensors\.torch import (?!save\n)|safetensors import")
    assert [str(path.relative_to(root)) for path in root.rglob("*.py") if others.search(path.read_text(encoding="utf-8"))] == []
