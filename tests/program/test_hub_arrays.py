"""Data sets of Hugging Face's `datasets` that hold arrays, saved in a folder: nothing is fetched."""

from pathlib import Path

import numpy as np
import pytest
import torch

from meanstep.program.console import UserError
from meanstep.program.data import Opened, Request, make, open_source
from meanstep.program.data.sources import Alike, plain_shape

datasets = pytest.importorskip("datasets", reason="data sets of the hub need the extra hub")
pytestmark = pytest.mark.usefixtures("here")

DRAW = np.random.default_rng(8)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets.disable_progress_bars()


def test_a_saved_data_set_of_arrays_is_rows_with_columns_as_labels_and_conditions():
    x = DRAW.normal(size=(12, 2, 5)).astype(np.float32)
    age, kind = DRAW.normal(size=12), ["cat", "dog", "ox"] * 4
    features = datasets.Features(
        {
            "signal": datasets.Array2D((2, 5), "float32"),
            "label": datasets.ClassLabel(names=["a", "b"]),
            "age": datasets.Value("float32"),
            "kind": datasets.Value("string"),
        }
    )
    held = {"signal": list(x), "label": [k % 2 for k in range(12)], "age": age, "kind": kind}
    data = datasets.Dataset.from_dict(held, features=features)
    datasets.DatasetDict({"train": data, "test": data.select([1, 3])}).save_to_disk("both")
    data.save_to_disk("one")
    for spec in ("both", "one"):
        source = open_source(spec)
        assert source.plain and source.classes == ("a", "b") and source.label(3) == 1 and plain_shape(spec) == (2, 5)
        assert np.array_equal(np.stack([source[i][0] for i in range(12)]), x)
    assert len(open_source("both", "test")) == 2 and open_source("one").digest == open_source("one").digest
    cache = make(Opened.of(Request("one", conditions=("age", "kind", "label"))), Path("cache"))
    y = cache.condition(torch.arange(12))
    assert cache.manifest.given == {"age": [], "kind": 3, "label": 2} and y["kind"].tolist() == [0, 1, 2] * 4
    assert cache.manifest.conditions[2].words == ("a", "b")
    np.testing.assert_allclose(cache.manifest.conditions[0].back(y["age"]).numpy(), age, rtol=1e-5, atol=1e-5)


def test_lists_of_different_lengths_are_refused_or_padded_and_columns_must_be_there():
    rows = [DRAW.normal(size=n).astype(np.float32) for n in (3, 5, 4)]
    datasets.Dataset.from_dict({"x": [row.tolist() for row in rows]}).save_to_disk("ragged")
    with pytest.raises(UserError, match=r"ragged, row 1 is 5, the first 3: cut or pad them"):
        make(Opened.of(Request("ragged")), Path("none"))
    source = open_source("ragged", alike=Alike("pad"))
    assert source.conditions["length"].tolist() == [3, 5, 4] and np.allclose(source[0][0], [*rows[0], 0, 0])
    datasets.Dataset.from_dict({"x": [[1.0]], "y": [[1.0]]}).save_to_disk("two")
    assert open_source("two", image="y")[0][0].tolist() == [1.0]
    for how, message in (({}, "has no column 'image': it has x, y; give --image-column"), ({"split": "test"}, "has no split 'test'")):
        with pytest.raises(UserError, match=message):
            open_source("two", **how)
    with pytest.raises(UserError, match="has no column 'z': it has x, y; name one among them"):
        open_source("two", image="x", conditions=["z"])
    datasets.Dataset.from_dict({"x": [[[1.0, 2.0], [3.0]]]}).save_to_disk("uneven")
    with pytest.raises(UserError, match="uneven, row 0 is no array of numbers"):
        open_source("uneven")[0]
