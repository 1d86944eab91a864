"""`meanstep diagnose`: planted faults fire their rule and no other, sound networks none, files are read with every mistake in one line."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import meanstep as ms
from meanstep import probes
from meanstep.cli import main
from meanstep.program import registry
from meanstep.program.console import UserError
from meanstep.program.diagnose import arrays, probe, reading, tables
from meanstep.program.diagnose.answer import answer
from meanstep.program.diagnose.case import Case
from meanstep.program.diagnose.command import seconds
from meanstep.program.diagnose.diagnosis import Diagnosis, diagnosed
from meanstep.program.diagnose.measures import Measure
from meanstep.program.diagnose.networks import Probed
from meanstep.program.diagnose.page import build, greek
from meanstep.program.diagnose.rules import CLEAR, FIRES, MISSING, NOTE, OPEN, RULES, WARN, verdicts

CPU = torch.device("cpu")
MODULE = """
import torch
import meanstep as ms
def mlp(): return ms.MLP(2, 16, 2, generator=ms.key(0))
def labelled(): return ms.MLP(2, 16, 2, classes=3, generator=ms.key(0))
class Strict(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.net, self.label = mlp(), torch.nn.Embedding(3, 2)
    def forward(self, z, r, t, y): return self.net(z + self.label(y), r, t)
def strict(): return Strict()
def wide(): return ms.MLP(2, 24, 2)
def three(): return ms.MLP(3, 8, 1)
def number(): return 3
class Round(torch.nn.Module):
    def forward(self, z, r, t, y=None): return torch.cdist(z, z) @ z
def flat(): return Round()
def drawn(): return ms.MLP(2, 16, 2)
class Data(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.net = mlp()
    def forward(self, z, r, t, y=None): return self.net(z, r, t)
def predicts(): return ms.fields.DataPrediction(Data(), 0.1)
class Heads(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.i, self.o = torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        self.a = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    def forward(self, z, r, t, y=None):
        h = self.i(torch.cat([z, torch.stack([r, t], 1)[:, None].expand(-1, z.shape[1], -1)], -1))
        return self.o(h + self.a(h, h, h, need_weights=False)[0])
def nowhere(): return mlp().to("cuda:7")
def meta(): return mlp().to("meta")
def needs(width): return ms.MLP(2, width)
def broken(): raise RuntimeError("no weights today")
class Sound(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.c = torch.nn.Conv1d(3, 3, 3, padding=1)
    def forward(self, z, r, t, y=None): return self.c(z) * (1 + t - r)[:, None, None]
class Image(torch.nn.Module):
    def __init__(self):
        super().__init__(); self.c = torch.nn.Conv2d(3, 3, 3, padding=1)
    def forward(self, x, timestep, delta): return self.c(x) * timestep[:, None, None, None] + delta[:, None, None, None]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "diagnosed_nets.py").write_text(MODULE, encoding="utf-8")
    g = ms.key(5)
    np.save("x.npy", torch.randn(600, 2, generator=g).numpy())
    with torch.random.fork_rng(devices=[]):
        yield tmp_path


def code(*args: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(args)
    return int(stop.value.code or 0)


# Rules on known cases ----------------------------------------------------------------------------------------------------------------


class Exact(nn.Module):
    """The true average velocity of normal data of standard deviation `std`, times a dummy weight; `wiggle` adds a function of t alone."""

    def __init__(self, std: float = 0.5, wiggle: float = 0.0, rate: float = 1.0, off: float = 0.0) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.std, self.wiggle, self.rate, self.off = std, wiggle, rate, off

    def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
        size = lambda t: ((1 - t) ** 2 * self.std**2 + t**2).sqrt()  # noqa: E731
        slope = (t - (1 - t) * self.std**2) / size(t) ** 2  # of v in z, where r = t
        gap = torch.where(t > r, t - r, 1.0)
        u = torch.where(t > r, (1 - size(r) / size(t)) / gap, slope)[:, None] * z
        return self.one * (u + self.wiggle * (self.rate * t).sin()[:, None] + self.off)


def diagnosis(net: nn.Module, x: Tensor, *, ema: nn.Module | None = None, rows: int = 1500, **kw: Any) -> Diagnosis:
    probed = Probed(net, ema, "net", "planted", ())
    data = arrays.Dataset(x.numpy(), None, "planted")
    changed: dict[str, Any] = {"times": "uniform", "power": 0.0, "diagonal_share": 0.5} | kw
    name = changed.pop("name", "meanflow")
    method = reading.method(name, probed, reading.changes(name, **changed))
    center = reading.center("posterior", probed, data, 0, torch.float32, CPU)
    case = Case(probed, data, method, center, torch.float32, CPU, chunk=512)
    return diagnosed(case, probe.measure(case, 60.0, 1e-6, rows), 60.0, 1e-6, "meanstep diagnose")


def normal(std: float = 0.5, n: int = 3000) -> Tensor:
    return std * torch.randn(n, 2, generator=ms.key(1))


def fired(d: Diagnosis, level: str | None = None) -> set[str]:
    return {v.rule.name for v in d.fired if level in (None, v.rule.level)}


def status(d: Diagnosis, name: str) -> str:
    return {v.rule.name: v.status for v in d.verdicts}[name]


def test_the_true_field_of_one_gaussian_is_healthy_and_beta_0_is_quietest():
    d = diagnosis(Exact(), normal(), ema=Exact())
    assert fired(d, WARN) == set()
    assert fired(d) <= {"target-role", "batch"}
    low, high = d.values["best"].low, d.values["best"].high
    assert low == 0 and high < 0.2
    # the map contracts by the ratio of standard deviations: J = -size(r) / size(t), eq. (12)
    table = d.found.tables["jacobian"]
    size = lambda t: ((1 - t) ** 2 * 0.25 + t**2).sqrt()  # noqa: E731
    torch.testing.assert_close(table.columns["kappa"], (-size(table.r) / size(table.t)).double(), rtol=1e-3, atol=1e-4)
    s = d.values["noise_1"]
    assert s.value == pytest.approx(1, abs=1e-4)  # at beta = 1 the multiplier is -I; the proxy has no bias


def test_separated_modes_want_beta_1():
    """A field that expands everywhere, as between modes: u = -z, so J = -(1 + t - r) I."""

    class Expanding(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return self.one * -z

    d = diagnosis(Expanding(), normal(), ema=Exact())
    assert "beta-pooled" in fired(d)
    assert d.values["best"].low == 1.0
    found = diagnosis(Exact(), normal(), name="coefficient", ema=Exact(), rows=1000)
    assert "beta-louder" in fired(found, WARN)  # beta = 1 where the map contracts
    assert status(d, "beta-louder") == MISSING


def test_times_multiplied_by_1000_are_found():
    d = diagnosis(Exact(wiggle=0.5, rate=1000.0), normal())
    assert {"time-scale", "derivative"} <= fired(d, WARN)
    assert "comes through t" in next(v.means for v in d.fired if v.rule.name == "derivative")


def test_a_biased_proxy_and_an_untrained_boundary_are_found():
    d = diagnosis(Exact(), normal(), ema=Exact(off=1.0))
    assert fired(d, WARN) == {"proxy-bias"}
    assert d.values["bias"].value == pytest.approx(2 / d.values["variance"].value, rel=0.05)
    assert "boundary" in fired(diagnosis(Exact(off=1.0), normal(), rows=600), WARN)


def test_a_saturated_weight_says_to_watch_the_residual():
    d = diagnosis(Exact(), normal(2.0), power=1.0)
    saturated = next(v for v in d.fired if v.rule.name == "saturated")
    assert "metrics['residual']" in saturated.change and saturated.rule.level == NOTE
    modes = next(v for v in d.fired if v.rule.name == "modes")  # rows of two numbers
    assert modes.measured == "0.995" and modes.rule.level == WARN
    assert "modes" not in {v.rule.name for v in diagnosis(Exact(), normal(2.0), power=0.0).fired}
    assert d.values["loss"].value == pytest.approx(1, abs=0.1)
    assert d.values["residual"].value > 2


def test_rows_that_carry_the_gradient_alone_are_found():
    """A field next to perfect but on few rows, under a weight that divides by nearly nothing."""
    x = normal()
    x[:30] *= 60
    assert "few-rows" in fired(diagnosis(Exact(), x), WARN)


def test_values_that_are_not_finite_are_counted_and_left_out():
    class Broken(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return super().forward(z, r, t, y) + torch.where(t > 0.97, torch.nan, 0.0)[:, None]

    d = diagnosis(Broken(), normal(), rows=800)
    assert "finite" in fired(d, WARN)
    assert np.isfinite(d.values["noise_0"].value) and d.found.lost > 5


def test_a_network_that_is_finite_at_no_moving_row_is_told_in_json_too():
    class Broken(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return super().forward(z, r, t, y) + torch.where(r < t, torch.nan, 0.0)[:, None]

    d = diagnosis(Broken(), normal(), rows=100)
    assert "finite" in fired(d, WARN)
    json.dumps(d.record(), allow_nan=False)


def test_scale_and_missing_diagonal():
    d = diagnosis(Exact(8.0), normal(8.0), diagonal_share=0.0, rows=600)
    assert {"data-scale", "no-diagonal"} <= fired(d, WARN)


@pytest.mark.parametrize(
    ("n", "references", "drawn"), [(20_000, 20_000, 20_000), (20_001, 10_000, 10_001), (30_000, 15_000, 15_000), (50_000, 20_000, 30_000)]
)
def test_a_fair_share_of_many_rows_is_drawn_from(n: int, references: int, drawn: int):
    data = arrays.Dataset(normal(1.0, n).numpy(), None, "many")
    center = reading.center("posterior", Probed(ms.MLP(2, 4, 1), None, "net", "planted", ()), data, 0, torch.float32, CPU)
    assert (center.cost, len(center.rows), len(center.rows.unique())) == (references, drawn, drawn)
    assert f"{references:,} rows" in center.words and (n == drawn or f"drawn from the other {drawn:,}" in center.words)


def test_the_scale_of_a_few_rows_more_than_the_posterior_takes():
    d = diagnosis(Exact(1.0), normal(1.0, 20_001), rows=16)
    assert d.values["scale_off"].value == pytest.approx(1, abs=0.05)


def test_a_network_that_starts_from_zero_is_found():
    class Silent(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return 0 * self.one * z

    d = diagnosis(Silent(), normal(), rows=64)
    assert "silent" in fired(d, WARN)
    json.dumps(d.record(), allow_nan=False)


def test_the_heavy_tail_is_seen():
    class Seam(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return self.one * -(40 * z[:, :1]).tanh().expand_as(z)

    assert "heavy-tail" in fired(diagnosis(Seam(), normal()), WARN)


def test_a_measure_is_below_only_with_its_whole_interval():
    assert Measure(0.2, 0.1, 0.4).above(0.25) is None and Measure(0.3, 0.1, 0.4).above(0.25) is None
    assert Measure(0.2, 0.1, 0.25).above(0.25) is False and Measure(0.3, 0.26, 0.4).above(0.25) is True
    assert Measure(0.2).above(0.25) is False and Measure(0.3).above(0.25) is True


def test_a_rule_needs_its_whole_interval():
    names = {rule.name: rule for rule in RULES}
    assert len(names) == len(RULES)

    def found(name: str, *m: float) -> str:
        return next(v.status for v in verdicts({names[name].key: Measure(*m)}, {}) if v.rule.name == name)

    assert found("derivative", 5, 4, 6) == FIRES
    assert found("derivative", 5, 2, 8) == OPEN
    assert found("derivative", 2, 1, 8) == OPEN and found("derivative", 2, 1, 3) == CLEAR
    assert found("target-role", 0.2, 0.05, 0.4) == OPEN and found("target-role", 0.2, 0.1, 0.4) == CLEAR
    assert found("target-role", 0.05, 0.01, 0.2) == OPEN and found("target-role", 0.05, 0.01, 0.09) == FIRES
    assert found("heavy-tail", 0.2) == CLEAR and found("heavy-tail", 0.3) == FIRES, "without an interval by the value alone"
    assert found("no-diagonal", 0.01) == FIRES and found("no-diagonal", 0.5) == CLEAR
    assert all(v.status == MISSING for v in verdicts({}, {}))


def test_the_documentation_lists_every_rule():
    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text(encoding="utf-8")
    for rule in RULES:
        cells = (f"`{rule.name}`", rule.level, rule.quantity.format(proxy="a proxy"), rule.condition, rule.source)
        row = f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        assert row in page, f"docs/diagnose.md lacks or contradicts: {row}"


def test_numbers_read_well():
    assert f"{Measure(0.12345, 0.1, 0.2)}" == "0.123 [0.1, 0.2]"
    assert f"{Measure(0.5):%}" == "50%" and f"{Measure(0.004):%}" == "0.4%"
    assert f"{Measure(2590.0, float('nan'))}" == "2,590" and f"{Measure(float('inf'))}" == "unbounded"
    assert greek("at beta = 0, coefficient(beta=1)") == "at β\u00a0=\u00a00, coefficient(beta=1)"


def test_the_same_seed_measures_the_same():
    a, b = (diagnosis(Exact(), normal(), rows=200) for _ in range(2))
    assert a.values == b.values
    c = {name: table.columns for name, table in a.found.tables.items()}
    assert set(c) == {"map", "answers", "jacobian", "train", "half", "shift", "moving", "still", "pull", "boundary"}


# Budget and memory -------------------------------------------------------------------------------------------------------------------


def test_the_budget_bounds_the_time_and_the_chunk_the_rows(monkeypatch: pytest.MonkeyPatch):
    largest = 0

    class Watched(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            nonlocal largest
            largest = max(largest, len(z))
            return super().forward(z, r, t, y)

    probed = Probed(Watched(), None, "net", "planted", ())
    data = arrays.Dataset(normal().numpy(), None, "planted")
    method = reading.method("meanflow", probed, {"times": "uniform"})
    center = reading.center("own", probed, data, 0, torch.float32, CPU)
    case = Case(probed, data, method, center, torch.float32, CPU, chunk=16)
    monkeypatch.setattr(probe, "_gradient", lambda *a: None)
    found = probe.measure(case, 1.5, 1e-9, 1 << 40)
    assert found.ended == probe.BUDGET and found.elapsed < 6 and found.rows >= 32
    assert largest <= 16


def test_a_probe_out_of_time_says_so_and_not_that_the_recipe_has_no_moving_rows():
    probed = Probed(Exact(), None, "net", "planted", ())
    data = arrays.Dataset(normal().numpy(), None, "planted")
    center = reading.center("own", probed, data, 0, torch.float32, CPU)
    told = {}
    for name in ("meanflow", "flow_matching"):
        case = Case(probed, data, reading.method(name, probed, {}), center, torch.float32, CPU)
        d = diagnosed(case, probe.measure(case, 1e-6, 1e-6, 1 << 40), 1e-6, 1e-6)
        told[name] = dict(d.facts)["noise over beta"], answer(d, set()).tiles[1]
    assert told["meanflow"][0].startswith("not measured: no time was left") and told["meanflow"][1].head == "Noise: not measured"
    assert "no time" in told["meanflow"][1].words.lower() and not re.search(r"no (coefficient|rows)", str(told["meanflow"]))
    assert told["flow_matching"][0].startswith("all rows of the recipe have r = t")
    assert told["flow_matching"][1].head == "Noise: no coefficient to choose"


@pytest.mark.parametrize("path", [ms.paths.linear, ms.paths.trigonometric], ids=["linear", "trigonometric"])
def test_rows_are_drawn_on_the_path_of_the_training(path: ms.paths.Path):
    """Data at the origin: what the network is asked, by every probe, is the path's scale of the noise at every time."""
    asked: dict[str, list[tuple[Tensor, Tensor]]] = {}
    now = [""]

    class Watched(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            plain = [torch.as_tensor(getattr(p, "primal", p)).detach() for p in (z, t)]
            asked.setdefault(now[0], []).append((plain[0], plain[1]))
            return super().forward(z, r, t, y)

    probed = Probed(Watched(), None, "net", "planted", ())
    data = arrays.Dataset(np.zeros((600, 2), np.float32), None, "planted")
    method = reading.method("meanflow", probed, {"times": "uniform"}, path)
    case = Case(probed, data, method, reading.center("own", probed, data, 0, torch.float32, CPU), torch.float32, CPU, chunk=1024)
    probe._batch(case, probe.Measured(), 1000, lambda: 60.0, lambda name: now.__setitem__(0, name))
    assert len(asked) >= 4
    for name, calls in asked.items():
        z, t = torch.cat([z for z, _ in calls]), torch.cat([t for _, t in calls])
        late = t > 0.05
        ratio = z[late].square().mean(1) / path.scales(t[late])[1] ** 2
        assert ratio.mean() == pytest.approx(1, abs=0.2), name  # on the other path 0.65 or 1.7


def test_precision_ends_it():
    case = diagnosis(Exact(), normal(), rows=8).case
    found = probe.measure(case, 60.0, 0.2, 1 << 40)
    assert found.ended == probe.REACHED and found.rows < 3000


@pytest.mark.parametrize("name", ["map", "still"])
def test_of_next_to_no_rows_nothing_is_precise(name: str):
    columns = {column: torch.rand(9, dtype=torch.float64) for column in ("a", "b", "c", "d", "e", "s", "residual")}
    table = probes.Table(torch.rand(9), torch.rand(9), columns)

    def precise(rows: Tensor) -> float:
        return probe.precise(probe.Measured({name: tables.part(table, rows)}))

    assert 0 < precise(torch.arange(9) < 9) < math.inf and precise(torch.arange(9) < 1) == precise(torch.arange(9) < 0) == math.inf
    assert probe.precise(probe.Measured({name: table._replace(columns={x: torch.zeros_like(p) for x, p in columns.items()})})) == math.inf


@pytest.mark.parametrize(("text", "value"), [("60", 60), ("60s", 60), ("2m", 120), (" 1.5 min", 90), ("1h", 3600)])
def test_budgets_are_read(text: str, value: float):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "soon", "-3", "0s", "10 parsecs", "nan"])
def test_a_budget_that_is_no_time(text: str):
    with pytest.raises(UserError, match="--budget is a time"):
        seconds(text)


def test_ctrl_c_reports_what_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    step = probe._step

    def interrupted(*args: Any) -> int:
        step(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "_step", interrupted)
    assert code("diagnose", "diagnosed_nets:mlp", "--data", "x.npy") == 130
    assert "Ctrl-C ended it" in " ".join(capsys.readouterr().out.split())
    assert "Interrupted" in Path("diagnose/report.html").read_text(encoding="utf-8")


def test_ctrl_c_before_the_first_rows_writes_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def stop(*args: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "_warm", stop)
    assert code("diagnose", "diagnosed_nets:mlp", "--data", "x.npy") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not Path("diagnose").exists()


# The command -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("figures")
def test_the_command_writes_a_page_that_needs_nothing(capsys: pytest.CaptureFixture[str]):
    net = ms.MLP(2, 16, 2, generator=ms.key(0))
    save_file(net.state_dict(), "w.safetensors")
    save_file({f"module.{k}": p for k, p in net.state_dict().items()} | {"n_averaged": torch.tensor(3)}, "e.safetensors")
    before = torch.get_rng_state()
    arguments = (
        "diagnose",
        "diagnosed_nets:mlp",
        "--data",
        "x.npy",
        "--weights",
        "w.safetensors",
        "--average",
        "e.safetensors",
        "--rows",
        "300",
    )
    assert code(*arguments, "--json", "d.json", "--out", "made/here") == 0
    assert torch.equal(before, torch.get_rng_state())
    said = " ".join(capsys.readouterr().out.split())
    assert "boundary" in said and "The quietest coefficient is not the best one" in said and "report: made/here/report.html" in said
    page = Path("made/here/report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count("data:image/png;base64") == 6
    for rule in RULES:
        assert f"<b>{rule.name}</b>" in page
    record = json.loads(Path("d.json").read_text(encoding="utf-8"))
    assert record["rows"] == 300 and len(record["verdicts"]) == len(RULES) and record["measures"]["noise_0"][0] > 0


DRAWN = ("coefficient", "terminal_velocity", "shortcut", "flow_matching")


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("recipe", registry.READ)
def test_every_recipe_can_be_read(recipe: str, tmp_path: Path):
    net: nn.Module = ms.MLP(2, 8, 1, generator=ms.key(0))
    net = ms.fields.DataPrediction(net) if recipe == "pixel_meanflow" else net  # type: ignore[arg-type]
    probed = Probed(net, None, "net", "planted", ())
    data = arrays.Dataset(normal(n=600).numpy(), None, "planted")
    method = reading.method(recipe, probed, {"beta": 0.5} if recipe == "coefficient" else {})
    center = reading.center("", probed, data, 0, torch.float32, CPU)
    case = Case(probed, data, method, center, torch.float32, CPU, chunk=256)
    d = diagnosed(case, probe.measure(case, 20.0, 1e-6, 64), 20.0, 1e-6)
    assert np.isfinite(d.values["slope"].value) and d.found.gradient is not None
    json.dumps(d.record(), allow_nan=False)
    if recipe in DRAWN:  # figures take longest, and differ by what is measured: with a gap, without, at instants alone
        assert build(d, tmp_path).is_file()


@pytest.mark.usefixtures("figures")
def test_a_recipe_of_instants_reports_what_there_is(tmp_path: Path):
    plain: dict[str, Any] = {"power": None, "diagonal_share": None}
    d = diagnosis(Exact(off=1.0), normal(), rows=400, name="flow_matching", **plain)
    assert fired(d, WARN) == {"boundary"} and set(d.found.tables) == {"answers", "still", "pull", "boundary"}
    assert {"map", "best", "factor", "change_late"}.isdisjoint(d.values) and d.values["noise_part"].value < 1
    assert "time-scale" in fired(diagnosis(Exact(wiggle=0.5, rate=1000.0), normal(), rows=64, name="flow_matching", **plain), WARN)
    page = build(d, tmp_path).read_text(encoding="utf-8")
    assert 'id="jacobian"' not in page and 'id="maps"' not in page
    assert "all rows of the recipe have r = t" in " ".join(re.sub(r"<a [^>]*>|</a>", "", page).split()).lower()
    assert page.count("data:image/png;base64") == 2


def test_a_learned_weight_is_read_as_it_starts():
    d = diagnosis(Exact(), normal(), rows=200, name="decoupled_meanflow", power=None, diagonal_share=None)
    assert "the learned weight as it starts" in dict(d.facts)["weight"] and d.case.method.beta == 0.0


def test_a_network_that_predicts_data(capsys: pytest.CaptureFixture[str]):
    args = ("--data", "x.npy", "--recipe", "pixel_meanflow")
    assert code("diagnose", "diagnosed_nets:predicts", *args, "--rows", "40", "--json", "d.json") == 0
    assert json.loads(Path("d.json").read_text(encoding="utf-8"))["recipe"] == "pixel_meanflow(proxy=own)"
    capsys.readouterr()
    Path("diagnose/report.html").unlink()
    assert "fields.DataPrediction(net, floor)" in complaint(capsys, "diagnosed_nets:mlp", *args)


def test_a_missing_copy_is_named_with_its_remedy():
    class Expanding(Exact):
        def forward(self, z: Tensor, r: Tensor, t: Tensor, y: Any = None) -> Tensor:
            return self.one * -z

    for ema, said in ((None, True), (Exact(), False)):
        pooled = next(v for v in diagnosis(Expanding(), normal(), ema=ema).fired if v.rule.name == "beta-pooled")
        assert ("ema = ms.Average(net, 0.999)" in pooled.change) is said
        assert "proxy=ema) is quieter" in pooled.change and "Decide by samples" in pooled.change
    line = diagnosis(Exact(), normal(), rows=8, name="coefficient").case.method.line
    assert line == "coefficient(beta=1, times=uniform, power=0, diagonal_share=0.5, proxy=own)"


def test_the_seed_draws_the_weights_and_leaves_torch_alone():
    before = torch.get_rng_state()
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        args = ("--data", "x.npy", "--rows", "24", "--seed", seed, "--json", f"{name}.json")
        assert code("diagnose", "diagnosed_nets:drawn", *args) == 0
        torch.rand(3)
        torch.set_rng_state(before)
    a, b, c = (json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))["measures"]["residual"] for name in "abc")
    assert a == b != c
    assert torch.equal(before, torch.get_rng_state())


def test_attention_is_measured_without_a_warning(recwarn: pytest.WarningsRecorder):
    np.save("tokens.npy", torch.randn(64, 3, 2, generator=ms.key(0)).numpy())
    assert code("diagnose", "diagnosed_nets:Heads", "--data", "tokens.npy", "--rows", "64", "--json", "d.json") == 0
    assert "every one of" in json.loads(Path("d.json").read_text(encoding="utf-8"))["facts"]["gradient"]
    assert [str(w.message) for w in recwarn.list] == []


def test_few_rows_make_a_page(tmp_path: Path):
    assert build(diagnosis(Exact(), normal(), rows=8), tmp_path).is_file()


def test_images_with_their_own_arguments_and_a_folder():
    folder = Path("run/checkpoints/200")
    folder.mkdir(parents=True)
    from diagnosed_nets import Image  # type: ignore[import-not-found]

    save_file(Image().state_dict(), folder / "model.safetensors")
    save_file(Image().state_dict(), folder / "ema_0.99.safetensors")
    save_file({"x": torch.randn(64, 3, 8, 8, generator=ms.key(0))}, "images.safetensors")
    assert (
        code("diagnose", "run", "--network", "diagnosed_nets:Image", "--data", "images.safetensors", "--rows", "40", "--json", "d.json")
        == 0
    )
    record = json.loads(Path("d.json").read_text(encoding="utf-8"))
    assert record["center"] == "ema" and record["measures"]["factor"][0] > 0 and "ema_0.99" in record["probed"]


@pytest.mark.parametrize(("name", "shape"), [("mlp", (2,)), ("Sound", (3, 12))])
def test_rows_of_any_shape_are_read(name: str, shape: tuple[int, ...]):
    np.save("rows.npy", torch.randn(64, *shape, generator=ms.key(0)).numpy())
    assert code("diagnose", f"diagnosed_nets:{name}", "--data", "rows.npy", "--rows", "40", "--json", "d.json") == 0
    record = json.loads(Path("d.json").read_text(encoding="utf-8"))
    assert record["probed"].endswith(f"64 rows of {'x'.join(map(str, shape))}") and record["rows"] == 40
    assert record["measures"]["noise_0"][0] > 0 and record["measures"]["factor"][0] > 0 and record["report"] == "diagnose/report.html"


def test_labels_reach_the_network_and_the_posterior():
    np.savez("d.npz", x=np.load("x.npy"), y=np.arange(600) % 3)
    assert code("diagnose", "diagnosed_nets:strict", "--data", "d.npz", "--rows", "64", "--json", "d.json") == 0
    assert "same label" in json.loads(Path("d.json").read_text(encoding="utf-8"))["facts"]["center"]


# Mistakes ----------------------------------------------------------------------------------------------------------------------------


def complaint(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert code("diagnose", *args) == 2
    text = capsys.readouterr().err.strip()
    assert text.startswith("meanstep: ") and "\n" not in text and "Traceback" not in text
    assert not Path("diagnose/report.html").exists()
    return text


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no_such_module:build", "no module"),
        ("diagnosed_nets:nothing", "has no 'nothing'"),
        ("diagnosed_nets:number", "returns no torch.nn.Module"),
        ("diagnosed_nets:needs", "--options"),
        ("diagnosed_nets:broken", "no weights today"),
        ("diagnosed_nets:three", "does not run on rows"),
        ("diagnosed_nets:strict", "Strict needs labels, and x.npy holds none: give --labels-file y.npy"),
        ("diagnosed_nets:nowhere", "diagnosed_nets:nowhere failed: "),
        ("diagnosed_nets:meta", "is on the meta device"),
        ("nowhere", "no folder or file"),
    ],
)
def test_a_network_that_cannot_be_made(target: str, words: str, capsys: pytest.CaptureFixture[str]):
    assert words in complaint(capsys, target, "--data", "x.npy")


def test_a_network_without_a_derivative(capsys: pytest.CaptureFixture[str]):
    assert "cannot be probed: " in complaint(capsys, "diagnosed_nets:flat", "--data", "x.npy")


def test_weights_that_do_not_fit(capsys: pytest.CaptureFixture[str]):
    net = ms.MLP(2, 24, 2)
    save_file(net.state_dict(), "other.safetensors")
    save_file({k: p for k, p in ms.MLP(2, 16, 2).state_dict().items() if "0" in k}, "some.safetensors")
    whole = Path("other.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save(net.state_dict(), "net.pt")
    save_file({k: p * float("nan") for k, p in ms.MLP(2, 16, 2).state_dict().items()}, "nan.safetensors")
    save_file({k: p.to(torch.int8) for k, p in ms.MLP(2, 16, 2).state_dict().items()}, "whole.safetensors")
    for name, words in (
        ("whole.safetensors", "is damaged: weights.0 is of torch.int8 there and of torch.float32 in this network"),
        ("other.safetensors", "another architecture: weights.0 is [34, 24] in the file and [34, 16]"),
        ("some.safetensors", "another architecture: 4 weights are missing"),
        ("cut.safetensors", "cut short"),
        ("net.pt", "is a pickle"),
        ("nan.safetensors", "not finite"),
        ("missing.safetensors", "no such file"),
    ):
        assert words in complaint(capsys, "diagnosed_nets:mlp", "--data", "x.npy", "--weights", name), name
    assert "--network" in complaint(capsys, "other.safetensors", "--data", "x.npy")
    Path("empty").mkdir()
    assert "no model.safetensors" in complaint(capsys, "empty", "--network", "diagnosed_nets:mlp", "--data", "x.npy")


def test_data_and_labels_that_do_not_fit(capsys: pytest.CaptureFixture[str]):
    x = np.load("x.npy")
    np.save("short.npy", np.arange(10))
    np.save("bad.npy", np.arange(600) % 3 + 1)
    np.save("few.npy", x[:5])
    np.save("text.npy", np.array([["a", "b"]] * 20))
    holes = x.copy()
    holes[::2] = np.nan
    np.save("holes.npy", holes)
    np.savez("unnamed.npz", a=x, b=x)
    Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:500])
    Path("junk.npy").write_text("no array", encoding="utf-8")
    Path("x.pkl").write_bytes(b"")
    np.save("line.npy", x[:, 0])
    for data, words in (
        ("few.npy", "at least 16"),
        ("line.npy", "where a row is one number, save x[:, None]"),
        ("text.npy", "real numbers"),
        ("holes.npy", "is not finite"),
        ("unnamed.npz", "no array x"),
        ("cut.npy", "cannot read"),
        ("junk.npy", "holds no plain array"),
        ("x.pkl", "pickle"),
        ("x.jpg", "unknown kind"),
        ("gone.npy", "no such file"),
    ):
        assert words in complaint(capsys, "diagnosed_nets:mlp", "--data", data), data
    assert "10 labels for 600" in complaint(capsys, "diagnosed_nets:strict", "--data", "x.npy", "--labels-file", "short.npy")
    assert "Are the labels in its range?" in complaint(capsys, "diagnosed_nets:strict", "--data", "x.npy", "--labels-file", "bad.npy")


def test_options_that_make_no_sense(capsys: pytest.CaptureFixture[str]):
    Path("file").write_text("x", encoding="utf-8")
    for args, words in (
        (("--out", "file"), "is a file"),
        (("--budget", "soon"), "is a time"),
        (("--device", "cuda:77"), "no device"),
        (("--center", "ema"), "give --average"),
        (("--recipe", "meenflow"), "--recipe: there is no recipe 'meenflow' (did you mean meanflow?): choose among flow_matching"),
        (("--recipe", "rectified_meanflow"), "read the network with --recipe meanflow"),
        (("--recipe", "shortcut", "--times", "uniform"), "it takes none of these"),
        (("--out", "file/below"), "file is a file"),
        (("--recipe", "transition", "--power", "1"), "--power: the recipe transition"),
        (("--beta", "2"), "--beta: at least 0 and at most 1"),
        (("--json", "nowhere/d.json"), "does not exist"),
    ):
        assert words in complaint(capsys, "diagnosed_nets:mlp", "--data", "x.npy", *args), args
