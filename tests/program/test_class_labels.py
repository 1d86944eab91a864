"""Classes by number and by name: natural order, names before numbers, only classes that have images, labels beside samples."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import meanstep as ms
from meanstep.cli import main
from meanstep.program.console import UserError
from meanstep.program.data import Cache, Opened, Request, make, open_source
from meanstep.program.runs import networks
from meanstep.program.runs.config import Config, DataConfig, to_yaml
from meanstep.program.runs.saved import checkpoints
from meanstep.program.sampling import draw
from meanstep.program.sampling.labels import position

SIZES = {"size": 8, "channels": 1, "patch": 4, "width": 16, "depth": 1, "heads": 2}


def folders(path: Path, names: Sequence[object]) -> str:
    for name in names:
        (path / str(name)).mkdir(parents=True)
        Image.new("L", (8, 8)).save(path / str(name) / "a.png")
    return str(path)


def made_run(folder: Path, labels: Sequence[int], names: Sequence[str] = ()) -> tuple[Path, Cache]:
    """A run of a small network that nothing trained, on images with these labels."""
    x = torch.randint(0, 256, (len(labels), 8, 8), generator=ms.key(0, "x")).to(torch.uint8).numpy()
    np.savez(folder / "data.npz", images=x, labels=np.array(labels), **({"classes": np.array(names)} if names else {}))
    cache = make(Opened.of(Request(str(folder / "data.npz"))), folder / "cache")
    description = {"network": "dit", "options": {**SIZES, "classes": len(cache.classes)}}
    here = folder / "run" / "checkpoints" / "000000000128"
    here.mkdir(parents=True)
    (folder / "run" / "config.yaml").write_text(to_yaml(Config(data=DataConfig(source=str(folder / "cache")))))
    (folder / "run" / "data.json").write_text(cache.manifest.text())
    save_file(networks.made(description, 0).state_dict(), here / "model.safetensors")
    (here / "network.json").write_text(json.dumps(description))
    sizes = {name: (here / name).stat().st_size for name in ("model.safetensors", "network.json")}
    (here / "state.json").write_text(json.dumps({"seen": 128, "step": 1, "sizes": sizes}))
    return folder / "run", cache


def sample(*args: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["sample", *map(str, args)])
    return int(stop.value.code or 0)


# Order and names ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (range(12), tuple(map(str, range(12)))),
        (("class10", "class2", "class1"), ("class1", "class2", "class10")),
        (("10", "9b", "9a", "cat"), ("9a", "9b", "10", "cat")),
        (("01", "1", "002"), ("01", "1", "002")),
        (("n01443537", "n01440764"), ("n01440764", "n01443537")),
    ],
)
def test_folders_are_classes_in_natural_order(names, ordered, tmp_path: Path):
    source = open_source(folders(tmp_path, list(names)))
    assert set(source.classes) == set(ordered) and source.classes == ordered
    for i in range(len(source)):
        assert Path(source.where(i)).parent.name == source.classes[source.label(i)]


def test_a_cache_keeps_the_classes_of_its_manifest(tmp_path: Path):
    spec = folders(tmp_path / "data", range(12))
    make(Opened.of(Request(spec)), tmp_path / "cache")
    path = tmp_path / "cache" / "manifest.json"
    old = json.loads(path.read_text()) | {"classes": sorted(map(str, range(12)))}
    path.write_text(json.dumps(old))
    assert Cache.open(tmp_path / "cache").classes[2] == "10"


@pytest.mark.parametrize(
    ("word", "classes", "said"),
    [
        ("2", ("0", "1", "10", "11", "2"), "label 2: class '2' (fifth of 5)"),
        ("2", tuple(map(str, range(12))), "label 2: class '2' (third of 12)"),
        ("1", ("cat", "dog"), "label 1: class 'dog' (second of 2)"),
        (" dog", ("cat", "dog"), "label dog: class 'dog' (second of 2)"),
        ("20", ("a",) * 20 + ("b",), "label 20: class 'b' (21st of 21)"),
        ("0", ("1", "0"), "label 0: class '0' (second of 2)"),
    ],
)
def test_names_win_over_numbers(word: str, classes: tuple[str, ...], said: str):
    from meanstep.program.sampling.labels import told

    assert told(word, classes, range(len(classes))) == said


def test_labels_of_the_command_are_names_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, _ = made_run(tmp_path, [0, 1, 2, 3], ["0", "1", "10", "2"])
    assert sample(run, "--seeds", "0:3", "--labels", "2,1", "--out", tmp_path / "a.npz") == 0
    assert np.load(tmp_path / "a.npz")["labels"].tolist() == [3, 1, 3]
    said = "".join(capsys.readouterr())
    assert "label 2: class '2' (fourth of 4)" in said and "label 1: class '1' (second of 4)" in said
    assert sample(run, "--labels", "7", "--out", tmp_path / "b.npz") == 2
    assert "names, or numbers in 0 to 3, got '7'; there are 0, 1, 10, 2" in capsys.readouterr().err


# Classes without images --------------------------------------------------------------------------------------------------------------


def test_drawn_labels_have_images_and_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, cache = made_run(tmp_path, [1, 2, 3, 4] * 3)
    assert cache.classes == ("0", "1", "2", "3", "4") and cache.manifest.empty == (0,)
    assert sample(run, "--seeds", "0:40", "--out", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        held = dict(file)
    assert set(held["labels"].tolist()) == {1, 2, 3, 4} and held["classes"].tolist() == list(cache.classes)
    assert "classes of which the data hold no image are not drawn: 0" in "".join(capsys.readouterr())
    model = ms.load(run)
    assert np.array_equal(model.sample(40, labels=torch.from_numpy(held["labels"])).numpy()[:, 0], held["images"][..., 0])
    assert sample(run, "--seeds", "0:2", "--labels", "0", "--out", tmp_path / "b.npz") == 0  # who asks for it, gets it, and is told
    assert "class '0' (first of 5), of which the data hold no image" in "".join(capsys.readouterr())
    again = open_source(str(tmp_path / "a.npz"))
    assert again.classes == cache.classes and again.left_out == {}


def test_with_all_classes_or_an_older_manifest_draws_are_as_before(tmp_path: Path):
    run, _ = made_run(tmp_path, [1, 2, 3, 4] * 3)
    path = run / "data.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "empty"}))
    assert torch.equal(ms.load(run).labels(range(50)), draw.drawn_labels(range(50), 5))
    assert torch.equal(draw.drawn_labels(range(50), 5), draw.drawn_labels(range(50), (0, 1, 2, 3, 4)))


def test_the_cache_command_names_classes_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.array([1, 2, 4, 4]))
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit):
            main(["cache", str(tmp_path / "a.npz"), "--out", str(tmp_path / f"cache{len(more)}"), *more])
        assert "2 classes without an image: 0, 3" in "".join(capsys.readouterr())


def test_pictures_and_distances_while_training_show_classes_that_have_images(tmp_path: Path):
    from meanstep.program.registry import AVERAGE, default_sampler
    from meanstep.program.training.ranks import Ranks
    from meanstep.program.training.samples import Samples

    run, cache = made_run(tmp_path, [1, 2, 4] * 4)
    samples, asked = Samples.of(Config(), cache, run, Ranks(0, 1, torch.device("cpu"))), []

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, z, r, t, y=None):
            asked.extend(y.tolist())
            return z * self.weight

    samples.made(Net(), range(7), 1, default_sampler(AVERAGE))
    assert asked == [1, 2, 4, 1, 2, 4, 1]


def test_labels_of_a_reference_are_those_of_the_same_name():
    from meanstep.program.evaluation.examples import by_name

    labels = torch.tensor([0, 1, -1, 0])
    assert by_name(labels, ("b", "d"), ("a", "b", "c", "d")).tolist() == [1, 3, -1, 1]
    assert torch.equal(by_name(labels, ("x", "y"), ("a", "b")), labels) and torch.equal(by_name(labels, (), ("a",)), labels)
    with pytest.raises(UserError, match=r"some of its classes are the model's, ant is none of them: .* --class-shares uniform"):
        by_name(labels, ("ant", "cat"), ("cat", "dog"))
    assert by_name(labels.clamp(max=0), ("cat", "ant"), ("bee", "cat")).tolist() == [1, 1, -1, 1], "of a name without rows nothing is asked"


def test_a_label_of_thousands_of_digits_is_none():
    with pytest.raises(UserError, match=r"--labels: names, or numbers in 0 to 1, got '999"):
        position("9" * 5000, ("a", "b"))


def test_a_checkpoint_of_thousands_of_digits_is_none(tmp_path: Path):
    run, _ = made_run(tmp_path, [0, 1, 0, 1])
    for word, said in (("9" * 5000, "got '999"), ("1" * 23, "has no checkpoint at 11,111"), ("7", "has no checkpoint at 7 samples")):
        with pytest.raises(UserError, match=rf"--checkpoint: .*{said}"):
            checkpoints(run, [word])
