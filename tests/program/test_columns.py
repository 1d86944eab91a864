"""Tables of numbers and words: what scikit-learn makes of them, from a file to a network's rows and back to a table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import meanstep as ms
from meanstep.program.console import UserError
from meanstep.program.data import Manifest, Opened, Request, check_fits, ensure, make
from meanstep.program.data.column import Column
from meanstep.program.data.columns import back, coded, fitted, table
from meanstep.program.reading.tables import READERS

from .conftest import run

pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(7)
SHORT = ("--samples=48", "--batch=16", "--evaluate-count=24", "--device=cpu", "--network.width=16", "--network.depth=1")


def people(path: str, n: int = 60) -> list[dict[str, str]]:
    """A skewed number, a whole number, a word with a comma, and a word that may be a condition."""
    rows = [
        {
            "income": f"{np.exp(DRAW.normal()):.5g}",
            "children": str(DRAW.integers(0, 5)),
            "town": ["Rome", "New York, NY", "Bath"][k % 3],
            "kind": "ab"[k % 2],
        }
        for k in range(n)
    ]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def columns_of(path: str) -> dict[str, np.ndarray]:
    return dict(READERS[Path(path).suffix](Path(path)).columns)


# What a column becomes -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 50, 2500])
def test_quantiles_are_those_of_scikit_learn_and_come_back_within_their_resolution(n: int):
    data = pytest.importorskip("sklearn.preprocessing", reason="the oracle of quantiles needs the extra digits")
    x = np.concatenate([np.exp(2 * DRAW.normal(size=n - n // 3)), np.round(DRAW.normal(size=n // 3))])  # heavy tails, and ties
    (column,) = fitted({"a": x}, (), "quantile")
    made = data.QuantileTransformer(n_quantiles=min(1000, n), subsample=None, output_distribution="normal").fit(x[:, None])
    others = np.concatenate([x, x + 0.01, [x.min() - 1, x.max() + 1, 0.0]])
    np.testing.assert_allclose(coded(column, others), made.transform(others[:, None]), rtol=1e-9, atol=1e-9)
    z = DRAW.normal(size=200) * 3
    np.testing.assert_allclose(back(column, z[:, None]), made.inverse_transform(z[:, None])[:, 0], rtol=1e-9, atol=1e-9)
    gaps = np.diff(np.sort(x)).max() if n > 1000 else 1e-9 * np.abs(x).max()
    assert np.abs(back(column, coded(column, x)) - x).max() <= max(gaps, 1e-6 * np.abs(x).max())


@pytest.mark.parametrize("unit", [1e-9, 1e-30, 1e9])
def test_a_quantile_knows_no_unit(unit: float):
    x = np.array([0.0, 0.0, 1.0, 1.5, 3.0, 7.0, 7.0])
    want = coded(fitted({"a": x}, (), "quantile")[0], x)
    assert len(np.unique(want)) == 5
    np.testing.assert_allclose(coded(fitted({"a": unit * x}, (), "quantile")[0], unit * x), want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("how", ["standard", "quantile"])
def test_other_words_and_another_unit_are_other_data(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rows are the same to the bit, and what samples come out as is not."""
    monkeypatch.setenv("MEANSTEP_CACHE", str(tmp_path / "user"))
    texts = {"a": "0.5,F 1.5,M 4.0,M", "b": "0.5,female 1.5,male 4.0,male", "c": "1.0,F 3.0,M 8.0,M"}
    caches = {}
    for name, text in texts.items():
        Path(name).mkdir()
        Path(name, "t.csv").write_text("\n".join(["h,sex", *text.split()]))
        caches[name] = ensure(f"{name}/t.csv", Request(f"{name}/t.csv", table=how))
    assert {name: cache.manifest.columns[1].words for name, cache in caches.items()} == {
        "a": ("F", "M"),
        "b": ("female", "male"),
        "c": ("F", "M"),
    }
    assert len({cache.digest for cache in caches.values()}) == len({cache.path for cache in caches.values()}) == 3
    if how == "quantile":
        assert torch.equal(caches["a"].rows(torch.arange(3))[0], caches["c"].rows(torch.arange(3))[0])
        assert caches["c"].manifest.columns[0].points == (1.0, 3.0, 8.0)
    with pytest.raises(UserError, match="the cache does not fit"):
        check_fits(caches["a"].manifest, caches["b"].manifest)


def test_words_are_one_hot_as_scikit_learn_has_them_and_whole_numbers_come_back_whole():
    data = pytest.importorskip("sklearn.preprocessing", reason="the oracle of one-hot entries needs the extra digits")
    town, count = np.array(["b", "a", "c", "a"]), np.array([3, -1, 3, 2**40])
    made = fitted({"count": count, "town": town, "kind": town}, ("kind",), "standard")
    assert [column.way for column in made] == ["same", "words", "condition"] and [column.width for column in made] == [1, 3, 0]
    assert np.array_equal(coded(made[1], town), data.OneHotEncoder(sparse_output=False).fit_transform(town[:, None]))
    rows = np.concatenate([coded(made[0], count) + 0.3, coded(made[1], town) * 0.4 + 0.1], 1)
    found = table(made, rows, {"kind": town})
    assert list(found) == ["count", "town", "kind"] and found["count"].dtype == np.int64
    assert found["count"].tolist() == count.tolist() and found["town"].tolist() == town.tolist()
    assert np.isnan(coded(Column("a", "words", words=("x",)), np.array(["x", "", "y"]))[1:]).all()


# From a table to a table -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["standard", "quantile"])
def test_a_cache_holds_what_the_way_back_needs_and_gives_the_table_back(how: str):
    people("p.csv")
    cache = make(Opened.of(Request("p.csv", table=how, conditions=("kind",))), Path("cache"))
    assert cache.shape == (5,) and cache.classes == ("a", "b")
    again = Manifest.read(Path("cache/manifest.json"))
    assert again == cache.manifest and [column.way for column in again.columns][2:] == ["words", "condition"]
    rows = cache.manifest.unnormalise(cache.rows(torch.arange(60))[0])
    held = columns_of("p.csv")
    found = table(again.columns, rows.numpy(), {"kind": held["kind"]})
    for name, values in held.items():
        same = np.allclose(found[name], values, rtol=1e-4) if values.dtype.kind == "f" else np.array_equal(found[name], values)
        assert same and found[name].dtype.kind == values.dtype.kind, name
    assert len({make(Opened.of(Request("p.csv", table=w, conditions=("kind",))), Path(w)).digest for w in ("standard", "quantile")}) == 2


def test_samples_are_a_table_with_its_columns_and_words_and_so_are_those_of_numbers_alone():
    pytest.importorskip("pyarrow")
    rows = people("p.csv")
    run("train", "--out=run", "--data.source=p.csv", "--data.table=quantile", "--data.condition", "kind", *SHORT)
    run("sample", "run", "--seeds=0:30", "--labels=b", "--out=made.csv", "--device=cpu")
    run("sample", "run", "--seeds=0:30", "--labels=b", "--out=made.parquet", "--device=cpu")
    made, same = columns_of("made.csv"), columns_of("made.parquet")
    assert list(made) == list(same) == ["income", "children", "town", "kind"] and len(made["town"]) == 30
    assert set(made["town"].tolist()) <= {"Rome", "New York, NY", "Bath"} and set(made["kind"].tolist()) == {"b"}
    assert made["children"].dtype == np.int64 and 0 <= made["children"].min() <= made["children"].max() <= 4
    income = [float(row["income"]) for row in rows]
    assert min(income) * 0.999 <= made["income"].min() <= made["income"].max() <= max(income) * 1.001
    for name in ("children", "town", "kind"):
        assert same[name].tolist() == made[name].tolist()
    model = ms.load("run")
    y = torch.ones(30, dtype=torch.int64)
    found = model.table(model.sample(30, labels=y), y)
    assert found["town"].tolist() == made["town"].tolist() and np.allclose(found["income"], made["income"], rtol=1e-5)
    run("evaluate", "run", "--count=16", "--metrics", "frechet", "--device=cpu", "--reference=p.csv")
    run("train", "--out=plain", "--data.source=made.csv", "--data.condition", "town", "kind", *SHORT)
    run("sample", "plain", "--seeds=0:5", "--out=again.csv", "--device=cpu")
    assert list(columns_of("again.csv")) == ["income", "children", "town", "kind"]


# What is refused -------------------------------------------------------------------------------------------------------------------------


def refused(message: str, spec: str, **how) -> None:
    with pytest.raises(UserError, match=message) as told:
        make(Opened.of(Request(spec, **how)), Path("none"))
    assert "\n" not in str(told.value)


def test_what_is_wrong_in_a_mixed_table_is_named_by_row_and_column(capsys: pytest.CaptureFixture[str]):
    people("p.csv")
    make(Opened.of(Request("p.csv", table="standard")), Path("train"))
    refused(r"row 2, column town: 'Rome' is no number: .*--data\.table standard", "p.csv")
    Path("hole.csv").write_text("a,town\n1,x\nnan,y\n3,\n4,x\n")
    for how in ("standard", "quantile"):
        refused(r"hole\.csv, row 3, column a: nan is no finite number .* or leave it out with --skip-broken", "hole.csv", table=how)
        cache = make(Opened.of(Request("hole.csv", table=how, skip_broken=True, normalise=False)), Path(how))
        assert len(cache) == 2 and cache.manifest.columns[1].words == ("x", "y")
    Path("hole.csv").write_text("a,town\n1,x\n3,\n4,x\n")
    refused(r"hole\.csv, row 3, column town: the word is missing: correct the row", "hole.csv", table="standard")
    Path("new.csv").write_text("income,children,town,kind\n1,2,Rome,a\n1,2,Oslo,b\n")
    refused(
        r"new\.csv, row 3, column town: 'Oslo' was not in the training data: they have Bath, New York, NY, Rome",
        "new.csv",
        like=Path("train"),
    )
    Path("other.csv").write_text("income,town,kind\n1,Rome,a\n")
    refused("has the columns income, town, kind, and income, children, town, kind are expected", "other.csv", like=Path("train"))
    np.save("x.npy", np.ones((5, 2), np.float32))
    refused(r"x\.npy is no table of named columns, which --data\.table .* is for", "x.npy", table="quantile")
    np.save("x.npy", DRAW.normal(size=(40, 2)).astype(np.float32))
    np.save("s.npy", DRAW.normal(size=(40, 2, 8)).astype(np.float32))
    run("train", "--out=arrays", "--data.source=x.npy", *SHORT, "--evaluate-every=0", "--sample-every=0")
    run("sample", "arrays", "--out=made.csv", "--count=2")
    assert Path("made.csv").read_text().splitlines()[0] == "1,2"  # columns without names
    run("train", "--out=signals", "--data.source=s.npy", *SHORT, "--evaluate-every=0", "--sample-every=0")
    run("sample", "signals", "--out=no.csv", code=2)
    assert "a .csv has one number a column, and a sample is 2 x 8" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "change",
    [
        {"way": "code"},
        {"words": []},
        {"points": [2.0, 1.0], "way": "quantile"},
        {"points": [], "way": "quantile"},
        {"name": 3},
        {"whole": "yes"},
        {"more": 1},
        {"way": "same"},
    ],
)
def test_a_damaged_column_of_a_manifest_is_one_line(change: dict[str, object]):
    Path("t.csv").write_text("a,town\n" + "".join(f"{k},{'xyz'[k % 3]}\n" for k in range(9)))
    make(Opened.of(Request("t.csv", table="standard")), Path("cache"))
    path = Path("cache/manifest.json")
    held = json.loads(path.read_text())
    held["columns"][1] |= change
    path.write_text(json.dumps(held))
    with pytest.raises(UserError, match=r"is damaged: .*; make the cache again"):
        Manifest.read(path)
