"""Conditions of anybody's rows: categories, numbers and arrays, alone and together, from a file to samples and distances."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.io import wavfile

import meanstep as ms
from meanstep.fields import MLP
from meanstep.program.console import UserError
from meanstep.program.data import Cache, Loader, Manifest, Opened, Request, make, open_source
from meanstep.program.data.manifest import check_fits
from meanstep.program.diagnose.arrays import of_cache
from meanstep.program.evaluation.examples import conditioned, of_source
from meanstep.program.runs import networks
from meanstep.program.runs.config import NetworkConfig

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(2)
SHORT = ("--samples=64", "--batch=32", "--evaluate-count=40", "--device=cpu", "--network.width=16", "--network.depth=1")


def drawn(*shape: int) -> np.ndarray:
    return (5 + 3 * DRAW.normal(size=shape)).astype(np.float32)


def table(path: str, n: int = 50) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two columns of numbers, an age, a kind."""
    x, age, kind = drawn(n, 2), drawn(n), [("cat", "dog", "a b")[k % 3] for k in range(n)]
    lines = [f"{a},{b},{c},{d}" for (a, b), c, d in zip(x.tolist(), age.tolist(), kind, strict=True)]
    Path(path).write_text("h,w,age,kind\n" + "\n".join(lines) + "\n")
    return x, age, kind


def cached(spec: str, *conditions: str, folder: str = "cache", **how) -> Cache:
    return make(Opened.of(Request(spec, conditions=conditions, **how)), Path(folder))


# In a cache ----------------------------------------------------------------------------------------------------------------------------


def test_words_are_labels_and_their_column_is_no_number_of_a_row():
    x, _, kind = table("a.csv")
    cache = cached("a.csv", "kind", "age")
    assert cache.shape == (2,) and cached("a.csv", "age", "kind", folder="b").digest != cache.digest
    alone = cached("a.csv", "kind", folder="alone")
    assert alone.classes == ("a b", "cat", "dog") and alone.shape == (3,) and alone.manifest.given == {}
    assert [alone.classes[k] for k in alone.condition(torch.arange(50)).tolist()] == kind
    assert cached("a.csv", "age", "kind", folder="c", shard=7).shape == (2,) and np.array_equal(
        open_source("a.csv", conditions=["age", "kind"])[3][0], x[3]
    )


def test_several_conditions_are_a_tree_and_numbers_are_seen_normalised():
    _, age, kind = table("a.csv")
    cache = Cache.open(cached("a.csv", "age", "kind", shard=13).path)
    at = torch.tensor([3, 48, 0])
    y = cache.condition(at)
    assert list(y) == ["age", "kind"] and y["kind"].dtype == torch.int64 and cache.classes == () and cache.labels.unique().tolist() == [-1]
    wide = age.astype(np.float64)
    np.testing.assert_allclose(y["age"], ((wide - wide.mean()) / wide.std())[at], rtol=1e-4, atol=1e-5)
    age_told, kind_told = cache.manifest.conditions
    assert [kind_told.words[k] for k in y["kind"]] == [kind[int(i)] for i in at]
    np.testing.assert_allclose(age_told.back(y["age"]), age[at], rtol=1e-5)
    chunk = Loader(cache, 0).chunk(40, 20)
    rows = Loader(cache, 0).chunk(0, 50)
    assert torch.equal(chunk.y["age"][:10], rows.y["age"][40:])
    assert Manifest.read(cache.path / "manifest.json") == cache.manifest


def test_arrays_stay_arrays_in_the_order_of_the_rows_that_are_kept():
    x, seen = drawn(20, 3), drawn(20, 2, 4)
    x[5] = np.nan
    np.savez("a.npz", x=x, seen=seen, y=np.arange(20))
    cache = cached("a.npz", "seen", skip_broken=True, batch=4)
    kept = np.delete(np.arange(20), 5)
    y = cache.condition(torch.arange(19))
    assert y.shape == (19, 2, 4) and cache.manifest.given == {"seen": [2, 4]} and cache.manifest.left_out == {"y": 20}
    np.testing.assert_allclose(cache.manifest.conditions[0].back(y), seen[kept], rtol=1e-5, atol=1e-5)
    assert (
        cached("a.npz", "seen", folder="raw", skip_broken=True, normalise=False)
        .condition(torch.arange(19))
        .equal(torch.from_numpy(seen[kept]))
    )


def test_a_test_split_has_the_categories_and_moments_of_its_train_split():
    x, age = drawn(12, 2), drawn(12)
    np.savez("a.npz", x_train=x, kind_train=np.arange(12) % 3, age_train=age, x_test=x[:4], kind_test=[2, 2, 2, 1], age_test=age[:4])
    train = cached("a.npz", "kind", "age", folder="train")
    test = cached("a.npz", "kind", "age", folder="test", split="test", like=Path("train"))
    assert test.condition(torch.arange(4))["kind"].tolist() == [2, 2, 2, 1] and test.manifest.conditions == train.manifest.conditions
    np.savez("b.npz", x_train=x, kind_train=np.arange(12), age_train=age)
    with pytest.raises(UserError, match=r"kind is '3', which was not in the training data: they have 0, 1, 2"):
        cached("b.npz", "kind", "age", folder="other", like=Path("train"))


KINDS = {
    "numbers for categories": (
        "grade",
        ("1", "2", "3"),
        ("1.0", "2.0", "2.0"),
        "grade is numbers here and categories in the training data",
    ),
    "words for numbers": ("age", ("30.5", "41.0", "52.0"), ("young", "old", "old"), "age is 'old', and a number in the training data"),
    "an unseen category": (
        "grade",
        ("1", "2", "3"),
        ("1", "4", "4"),
        "grade is '4', which was not in the training data: they have 1, 2, 3",
    ),
}


@pytest.mark.parametrize(("name", "train", "test", "said"), KINDS.values(), ids=KINDS)
def test_a_condition_of_another_kind_than_in_training_is_refused(name: str, train: tuple[str], test: tuple[str], said: str):
    for file, values in (("train", train), ("test", test)):
        Path(f"{file}.csv").write_text(f"h,{name}\n" + "".join(f"{k}.5,{value}\n" for k, value in enumerate(values)))
    own = cached("train.csv", name, folder="own")
    with pytest.raises(UserError, match=said):
        conditioned("test.csv", own.manifest, "train")
    with pytest.raises(UserError, match=said):
        cached("test.csv", name, folder="test", like=own.path)


def test_whole_numbers_are_numbers_where_training_had_numbers():
    Path("train.csv").write_text("h,age\n0.5,30.5\n1.5,41.0\n2.5,52.0\n")
    Path("test.csv").write_text("h,age\n0.5,52\n1.5,30\n2.5,52\n")
    own = cached("train.csv", "age", folder="own")
    reference = of_source(conditioned("test.csv", own.manifest, "train"), own.manifest, "train")
    assert reference.conditions["age"].tolist() == [52, 30, 52]
    held = cached("test.csv", "age", folder="test", like=own.path)
    np.testing.assert_allclose(held.manifest.conditions[0].back(held.condition(torch.arange(3))), [52, 30, 52], rtol=1e-6)


def test_a_condition_that_a_test_split_has_not_is_named():
    """A flat test split has lengths alone where training had labels beside them; of a pair, too, a label is lacking."""
    for k in range(4):
        for path in (f"s/train/{'ab'[k % 2]}/{k}.wav", f"s/test/{k}.wav"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            wavfile.write(path, 8000, (1000 * drawn(3 + k)).astype(np.int16))
    own = cached("s", folder="own", ragged="pad")
    said = "has no condition label, which the training data have: name it too, or label the rows by a, b"
    with pytest.raises(UserError, match=said):
        conditioned("s", own.manifest, "test")
    with pytest.raises(UserError, match=said):
        cached("s", folder="test", split="test", like=own.path)
    np.savez("a.npz", x=drawn(4, 2), low=drawn(4, 2), y=np.arange(4) % 2)
    np.savez("b.npz", x=drawn(4, 2), low=drawn(4, 2))
    paired = cached("a.npz", folder="paired", pair="low")
    with pytest.raises(UserError, match="has no condition label, which the training data have: name it too, or label the rows by 0, 1"):
        conditioned("b.npz", paired.manifest, "train", "low")


def test_a_condition_of_ones_own_may_be_called_label():
    Path("a.csv").write_text("h,label\n0.5,x\n1.5,y\n2.5,y\n")
    own = cached("a.csv", "label", folder="own")
    assert own.classes == ("x", "y") and conditioned("a.csv", own.manifest, "train").labels.tolist() == [0, 1, 1]


def test_a_manifest_from_before_conditions_is_read_and_its_digest_is_the_same():
    np.savez("a.npz", images=DRAW.integers(0, 256, (6, 8, 8), dtype=np.uint8), labels=np.arange(6) % 2)
    made = cached("a.npz")
    path = made.path / "manifest.json"
    held = json.loads(path.read_text())
    assert held.pop("conditions") == []
    path.write_text(json.dumps(held))
    found = Cache.open(made.path).manifest
    assert found == made.manifest and found.digest == made.digest
    check_fits(made.manifest, found)
    assert cached("a.npz").digest == made.digest  # the same command recognises it


# A network ------------------------------------------------------------------------------------------------------------------------------


def test_an_mlp_reads_every_condition_and_only_its_own_row():
    net = MLP(2, 8, 1, conditions={"kind": 3, "age": [], "seen": [2, 2]}, generator=ms.key(0))
    z, t = torch.randn(4, 2), torch.rand(4)
    y = {"kind": torch.tensor([0, 1, 2, 3]), "age": torch.randn(4), "seen": torch.randn(4, 2, 2)}
    whole = net(z, t / 2, t, y)
    for name, part in y.items():
        changed = part.clone()
        changed[1] = changed[1] + 1
        moved = (net(z, t / 2, t, y | {name: changed}) - whole).abs().amax(-1)
        assert moved[1] > 0 and moved[[0, 2, 3]].max() == 0
    one = MLP(2, 8, 1, conditions={"age": []}, generator=ms.key(0))
    assert torch.equal(one(z, t, t, y["age"]), one(z, t, t, {"age": y["age"]}))
    with pytest.raises(ValueError, match="takes the conditions age, and y is None"):
        one(z, t, t)


@pytest.mark.parametrize("name", ["dit", "unet", "mlp"])
def test_every_network_of_ours_is_given_them_by_name(name: str):
    asked = {"age": [], "kind": 3, "seen": [2, 4], "low": [1, 8, 8]}
    described = networks.described(NetworkConfig(name), (1, 8, 8), 0, conditions=asked)
    assert described["conditions"] == described["options"]["conditions"] == asked
    rows, net = torch.ones(2), networks.made(json.loads(json.dumps(described)))
    y = {"age": rows, "kind": torch.tensor([0, 3]), "seen": torch.ones(2, 2, 4), "low": torch.ones(2, 1, 8, 8)}
    assert net(torch.zeros(2, 1, 8, 8), 0 * rows, rows, y).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="y has no low, but age, kind, seen"):
        net(torch.zeros(2, 1, 8, 8), 0 * rows, rows, {key: part for key, part in y.items() if key != "low"})


# From the command line -------------------------------------------------------------------------------------------------------------------


def test_diagnose_reads_one_condition_and_several():
    np.savez("a.npz", x=drawn(20, 2), age=drawn(20), kind=np.arange(20) % 2)
    one = cached("a.npz", "age")
    assert (
        np.array_equal(of_cache(one, "a.npz").y, one.condition(torch.arange(20)).numpy())
        and of_cache(one, "a.npz", labelled=False).y is None
    )
    two = cached("a.npz", "age", "kind", folder="two")
    found, wanted = of_cache(two, "a.npz").y, two.condition(torch.arange(20))
    assert found.keys() == wanted.keys() == {"age", "kind"} and all(np.array_equal(found[k], wanted[k].numpy()) for k in found)


def sources() -> dict[str, tuple[str, ...]]:
    """A source of each kind, with its conditions."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    x, seen, n = drawn(50, 2, 4), drawn(50, 3), 50
    table("t.csv")
    pq.write_table(pa.table({"h": drawn(n), "w": drawn(n), "age": drawn(n)}), "t.parquet")
    np.savez("a.npz", rows=x, kind=np.arange(n) % 3)
    save_file({"x": torch.from_numpy(x), "seen": torch.from_numpy(seen), "kind": torch.arange(n) % 3}, "a.safetensors")
    for k in range(40):
        Path("arrays").mkdir(exist_ok=True)
        np.save(f"arrays/{k:02d}.npy", x[k])
        Path("sounds", "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        wavfile.write(Path("sounds", "ab"[k % 2], f"{k}.wav"), 8000, (1000 * x[k, 0]).astype(np.int16))
    conditions = {"t.csv": ("age", "kind"), "t.parquet": ("age",), "a.npz:rows": ("kind",), "a.safetensors": ("seen", "kind")}
    return conditions | {"arrays": (), "sounds": ()}


@pytest.mark.parametrize("kind", ["t.csv", "t.parquet", "a.npz:rows", "a.safetensors", "arrays", "sounds"])
def test_every_kind_of_source_is_trained_on_sampled_evaluated_and_reported(kind: str):
    conditions = sources()[kind]
    asked = ("--data.condition", *conditions) if conditions else ()
    run("train", "--out=run", f"--data.source={kind}", *SHORT, *asked)
    assert (Path("run") / "report.html").is_file() and len(list((Path("run") / "samples").glob("*.png"))) >= 1
    model = ms.load("run")
    assert list(model.given) == (list(conditions) if len(conditions) > 1 or kind == "t.parquet" else [])
    run("sample", "run", "--seeds=0:6", "--out=s.png")
    with np.load("s.npz") as held:
        assert np.array_equal(held["x"], model.sample(6).numpy()) and held["x"].shape == (6, *model.shape)
        assert all(f"condition_{name}" in held for name in model.given)
    if conditions == ("kind",):
        run("sample", "run", "--seeds=0:4", "--condition", "kind=2", "--out=k.npz")
        assert np.load("k.npz")["labels"].tolist() == [2] * 4
    run("evaluate", "run", "--count=30", "--metrics", "frechet", "--json=rows.json")
    assert json.loads(Path("rows.json").read_text())[0]["values"]["frechet"] > 0


def test_samples_are_given_what_is_asked_for_and_the_rest_of_one_row_of_the_data(capsys: pytest.CaptureFixture[str]):
    _, age, kind = table("a.csv")
    words = ("train", "--out=run", "--data.source=a.csv", "--evaluate-every=0", *SHORT[1:], "--data.condition", "age", "kind")
    run(*words, "--samples=32")
    run(*words, "--samples=64")
    assert "goes on at 32 samples" in capsys.readouterr().err
    run("train", "--out=run", "--data.source=a.csv", *SHORT, "--data.condition", "kind", "age", code=2)
    assert "--data.condition age kind, now kind age" in capsys.readouterr().err
    Path("a.csv").unlink()
    run("sample", "run", "--seeds=0:20", "--out=s.npz", "--guidance=2", "--condition", "kind=a b")
    pairs = {(float(np.float32(a)), k) for a, k in zip(age, kind, strict=True)}
    with np.load("s.npz") as held:
        assert set(held["condition_kind"].tolist()) == {"a b"} and len(set(held["condition_age"].tolist())) > 3
        assert set(zip(held["condition_age"].tolist(), held["condition_kind"].tolist(), strict=True)) <= pairs
    model = ms.load("run")
    given = {"age": torch.full((3,), 6.0), "kind": torch.tensor([0, 1, 2])}
    made = model.sample(3, labels=given)
    run("sample", "run", "--seeds=1", "--out=t.npy", "--condition", "age=6", "kind=cat")
    np.testing.assert_allclose(np.load("t.npy")[0], made[1], rtol=1e-5, atol=1e-5)
    assert not torch.equal(made, model.sample(3, labels=given | {"age": torch.zeros(3)}))
    for wrong in (given | {"kind": torch.tensor([0, 1, 3])}, {"age": given["age"]}, given | {"age": torch.zeros(2)}):
        with pytest.raises(UserError, match=r"categories 0 to 2|takes the conditions age, kind|tensor of shape"):
            model.sample(3, labels=wrong)
    for word, message in {
        "kind=cow": "--condition kind: 'cow' was not in the training data: they have a b, cat, dog",
        "age=old": "--condition age: a finite number, got 'old'",
        "size=3": "NAME=VALUE with a name among age, kind, got 'size=3'",
        "kind": "NAME=VALUE",
    }.items():
        run("sample", "run", "--condition", word, code=2)
        assert message in capsys.readouterr().err
    kept = load_file("run/conditions.safetensors")
    assert len(kept["age"]) == 50 and sorted(kept["age"].tolist()) == sorted(age.tolist())


def test_one_observation_for_many_samples_from_python_and_the_command_line(capsys: pytest.CaptureFixture[str]):
    x, seen = drawn(40, 2), drawn(40, 2, 3)
    np.savez("a.npz", x=x, seen=seen)
    words = (
        "train",
        "--data.source=a.npz:x",
        "--evaluate-every=0",
        "--sample-every=0",
        *SHORT[1:],
        "--data.condition",
        "seen",
        "--samples=32",
    )
    run(*words, "--out=plain")
    run(*words, "--out=guided", "--method.hide-numbers")
    model, one = ms.load("guided"), torch.from_numpy(seen[3])
    for guidance in (1.0, 2.0):
        many = model.sample(5, labels={"seen": one}, guidance=guidance)
        assert torch.equal(many, model.sample(5, labels={"seen": torch.stack([one] * 5)}, guidance=guidance))
        assert torch.equal(many, model.sample(5, labels={"seen": seen[3]}, guidance=guidance)) and not torch.equal(many[0], many[1])
    assert not torch.equal(many, model.sample(5, labels={"seen": one}))
    np.save("one.npy", seen[3])
    run("sample", "guided", "--count=5", "--condition", "seen=one.npy", "--guidance=2", "--out=s.npz")
    with np.load("s.npz") as held:
        assert np.array_equal(held["x"], many.numpy()) and held["seeds"].tolist() == [0, 1, 2, 3, 4]
        assert np.array_equal(held["condition_seen"], np.stack([seen[3]] * 5))
    capsys.readouterr()
    np.save("two.npy", seen[3:5])
    for asked, told in {
        ("plain", "--guidance=2"): "numbers are hidden in training only with --method.hide-numbers, and were not",
        ("guided", "--condition", "seen=two.npy"): "seen: 2 x 3 finite numbers, and two.npy holds float32 (2, 2, 3): take one row's",
        ("guided", "--condition", "seen=3"): "it is an array of 2 x 3: give an .npy that is there, got '3'",
        ("guided", "--count=2", "--seeds=3"): "--count and --seeds: the first counts seeds from 0 on",
    }.items():
        run("sample", *asked, code=2)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line, line
    with pytest.raises(UserError, match="guidance 2: numbers are hidden in training only"):
        ms.load("plain").sample(2, guidance=2.0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method.recipe=shortcut",), "the recipe shortcut hid no condition in training"),
        (("--method.dropout=0",), "the recipe meanflow hid no condition in training"),
    ],
)
def test_a_network_that_never_saw_the_empty_condition_is_not_guided(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], here: Path
):
    np.savez("a.npz", x=drawn(40, 2), kind=np.arange(40) % 2)
    asked = ("--data.source=a.npz:x", "--evaluate-every=0", "--sample-every=0", *SHORT[1:], "--data.condition", "kind", "--samples=32")
    run("train", "--out=run", *asked, *words)
    capsys.readouterr()
    method = json.loads(Path("run/method.json").read_text())
    assert method["dropout"] == 0
    for earlier in (False, True):  # a run from before this was written says it by its configuration
        if earlier:
            Path("run/method.json").write_text(json.dumps({k: v for k, v in method.items() if k not in ("dropout", "numbers")}))
        run("sample", "run", "--guidance=2", code=2)
        assert told in capsys.readouterr().err
        assert ms.load("run").null is None
    run("sample", "run", "--count=2", "--out=s.npz")


OWN = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, conditions):
        super().__init__()
        self.kinds = nn.Embedding(conditions["kind"] + 1, 4)
        self.body = nn.Linear(2 + 2 + 1 + 4, 2)

    def forward(self, z, r, t, y):
        return self.body(torch.cat([z, r[:, None], t[:, None], y["age"][:, None], self.kinds(y["kind"])], 1))

def build(shape, classes, conditions):
    return Net(conditions)
"""


def test_a_network_of_ones_own_is_given_the_tree(here: Path):
    name = f"conditions_{here.name.replace('-', '_')}"
    (here / f"{name}.py").write_text(OWN)
    table("a.csv")
    words = ("--samples=64", "--batch=32", "--evaluate-every=0", "--sample-every=0", "--device=cpu", "--data.condition", "age", "kind")
    run("train", "--out=run", "--data.source=a.csv", f"--network.name={name}:build", *words)
    made = ms.load("run", network=f"{name}:build").sample(4)
    assert made.shape == (4, 2) and made.isfinite().all()


# What is refused -------------------------------------------------------------------------------------------------------------------------

REFUSED = {
    "age colour": "has no column 'colour': it has h, w, age, kind; name one among them",
    "age age": "the condition age is named twice",
    "h w age kind": "all columns are conditions",
    "": r"row 2, column kind: 'cat' is no number",
}


@pytest.mark.parametrize("words", REFUSED)
def test_conditions_that_do_not_do_are_one_line(words: str, capsys: pytest.CaptureFixture[str]):
    table("a.csv")
    asked = ("--data.condition", *words.split()) if words else ()
    run("train", "--out=run", "--data.source=a.csv", *SHORT, *asked, code=2)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    with pytest.raises(UserError, match=REFUSED[words]):
        raise UserError(last)


def test_conditions_that_do_not_fit_name_row_and_column():
    x = drawn(4, 2)
    Path("hole.csv").write_text("h,age,kind\n1,2,a\n3,,b\n5,6,\n")
    Path("whole.csv").write_text("h,age\n1,2\n3,\n5,6\n")
    np.savez("a.npz", x=x, few=np.zeros(3), bad=np.array([0, np.inf, 0, 0]), odd=np.zeros(4, complex))
    np.save("x.npy", x)
    cases = {
        ("whole.csv", "age"): r"whole\.csv, row 3, column age: the condition is not finite",
        ("hole.csv", "kind"): r"hole\.csv, row 4, column kind: the condition is missing",
        ("a.npz", "few"): r"3 entries of few for 4 rows: give one for each",
        ("a.npz", "bad"): r"array bad, row 1 \(from 0\): the condition is not finite",
        ("a.npz", "odd"): "odd is of type complex128: give whole numbers, words or floats",
        ("a.npz", "none"): "has no array 'none'",
        ("x.npy", "age"): "has no array 'age'",
    }
    for (spec, name), message in cases.items():
        with pytest.raises(UserError, match=message) as told:
            open_source(spec, conditions=[name])
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"digits has no columns or arrays for the condition age"):
        open_source("digits", conditions=["age"])


def test_transport_does_not_cross_conditions_that_are_no_labels(capsys: pytest.CaptureFixture[str]):
    table("a.csv")
    run(
        "train",
        "--out=run",
        "--data.source=a.csv",
        *SHORT,
        "--data.condition",
        "age",
        "kind",
        "--method.coupling=optimal-transport",
        code=2,
    )
    assert "pairs rows of one label, and these data have other conditions (age): leave it out" in capsys.readouterr().err
    np.savez("a.npz", x=drawn(40, 2), kind=np.arange(40) % 2, side=np.arange(40) % 3)
    quiet = ("--evaluate-every=0", "--sample-every=0", "--method.coupling=optimal-transport")
    run("train", "--out=two", "--data.source=a.npz:x", *SHORT, "--data.condition", "kind", "side", *quiet)


# Another reference -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "cache"])
def test_a_raw_file_is_a_reference_of_any_run_with_its_own_conditions(source: str, capsys: pytest.CaptureFixture[str]):
    for name, width in (("a", 3), ("b", 3), ("wide", 2)):
        np.savez(f"{name}.npz", x=drawn(40, 2), seen=drawn(40, width))
    np.save("bare.npy", drawn(40, 2))
    if source == "cache":
        run("cache", "a.npz", "--condition", "seen", "--out=made", "--quiet")
    data = ("--data.source=a.npz", "--data.condition", "seen") if source == "file" else ("--data.source=made",)
    run("train", "--out=run", *data, *SHORT)
    capsys.readouterr()
    run("evaluate", "run", "--reference=b.npz", "--count=16", "--steps=1", "--metrics=sliced", "--device=cpu", "--json=-")
    assert json.loads(capsys.readouterr().out)[0]["reference"].startswith("b.npz")
    run("cache", "b.npz", "--out=bare", "--quiet")
    for other, said in (
        ("wide.npz", "wide.npz holds seen of 2, the run's is 3"),
        ("bare.npy", "bare.npy has no array 'seen'"),
        ("bare", "has no seen, which the run's network is given: make it with --condition as the run's, and --like its cache"),
    ):
        run("evaluate", "run", f"--reference={other}", "--count=16", "--device=cpu", code=2)
        assert said in " ".join(capsys.readouterr().err.split())
