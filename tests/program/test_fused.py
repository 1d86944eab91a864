"""The compiled step of a sweep's model: the step as it is written, resumed as that is, and what happens without a compiler."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import meanstep as ms
from meanstep.fields.planar import PLANAR
from meanstep.paths import linear
from meanstep.program.reproduce.points import fused, jobs, near, state
from meanstep.program.reproduce.points.draws import BLOCK, Needs, Stream
from meanstep.program.reproduce.points.engine import Cohort
from meanstep.program.reproduce.points.jobs import Job, train
from meanstep.program.reproduce.points.protocols import protocol
from meanstep.program.reproduce.points.sets import Points
from meanstep.program.reproduce.points.settings import PUBLISHED, Settings, Spec
from meanstep.program.reproduce.study import Stopped
from meanstep.types import Bridge
from meanstep.velocities import Posterior

OURS = Settings(
    ("two_moons",),
    (0.0, 1.0),
    (0,),
    ("paper", "posterior-both@1", "flow_matching", "alpha_flow"),
    70,
    batch=32,
    width=16,
    depth=2,
    reference=64,
    samples=500,
    directions=8,
    power=1.0,
)
THEIRS = Settings(
    ("two_moons",), (0.0, 1.0), (0,), ("plain",), 70, width=16, depth=2, protocol="authors", largest_gap=0.5, **PUBLISHED | {"batch": 64}
)
SPECS = [
    Spec(),
    Spec(beta=0.6, proxy="ema"),
    Spec(beta=1.0, proxy="ema", anchor=True),
    Spec(beta=0.6, proxy="own", both=True),
    Spec(beta=1.0, proxy="oracle"),
    Spec(beta=0.7, proxy="posterior", both=True),
    Spec(beta=1.0, proxy="ema", sigma="t2"),
    Spec(recipe="flow_matching"),
]
JOB = Job((("two_moons", 0),))
CLOCKS = ("seconds", "measuring")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch):
    """The function that is compiled, run as it is: what it computes without the minutes that a compiler takes."""
    monkeypatch.setattr(fused, "_compiled", lambda step, given, more: step)
    monkeypatch.setattr(fused, "_made", {})
    monkeypatch.setattr(fused, "compiler", lambda: "c++")
    monkeypatch.setattr(fused, "FEWEST", 50)


def pair(spec: Spec, settings: Settings, dtype: torch.dtype = torch.float64) -> tuple[Cohort, Cohort, list[Any]]:
    """A cohort whose step is compiled, its twin whose is not, and three blocks of draws for both."""
    shape = protocol(settings).shape(2, settings.width, settings.depth)
    law = PLANAR["two_moons"]().to(dtype) if settings.protocol == "ours" else protocol(settings).law("two_moons", settings)
    stream = Stream(law, "two_moons", 0)
    blocks = [stream.block(k, shape, settings, Needs.of([spec]), dtype=dtype) for k in range(3)]
    cohorts = [Cohort(shape, [spec], shape.initial(ms.key(1)).to(dtype)[None], [0], settings) for _ in range(2)]
    cohorts[0].compile(blocks[0])
    return cohorts[0], cohorts[1], blocks


def equal(one: Cohort, other: Cohort, bound: float) -> None:
    for name, mine in one.state().items():
        torch.testing.assert_close(mine, other.state()[name], rtol=bound, atol=bound)
    assert one.count == other.count


def both(one: Cohort, other: Cohort, blocks: list[Any], bound: float) -> None:
    """Trains both, the first in other pieces, and compares all that training changes."""
    before = one.flat.clone()
    for start, stop in ((0, 20), (20, 32), (32, 64), (64, 70)):
        found = one.run(blocks[start // BLOCK], start, stop)
        torch.testing.assert_close(found, other.run(blocks[start // BLOCK], start, stop), rtol=10 * bound, atol=bound)
    assert (one.flat - before).abs().max() > 0.01
    equal(one, other, bound)


@pytest.mark.parametrize("settings", [OURS, replace(OURS, power=0.0), THEIRS], ids=["ours", "unweighted", "authors"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.id)
def test_what_is_compiled_is_the_step_as_it_is_written(spec: Spec, settings: Settings, written: None):
    if settings is THEIRS and (spec.anchor or spec.proxy == "oracle"):
        pytest.skip("not of the authors' protocol")
    one, other, blocks = pair(spec, settings)
    both(one, other, blocks, 1e-10)


def test_models_that_differ_in_beta_alone_share_what_is_compiled(written: None):
    pair(Spec(beta=0.3, proxy="ema"), OURS)
    one, other, blocks = pair(Spec(beta=0.9, proxy="ema"), OURS)
    assert len(fused._made) == 1
    both(one, other, blocks, 1e-10)
    for settings in (replace(OURS, power=0.0), replace(OURS, c=0.1), THEIRS):
        pair(Spec(beta=0.9, proxy="ema"), settings)
    assert len(fused._made) == 4


def test_a_block_with_more_moving_rows_than_there_is_room_for_trains_as_it_is_written(written: None):
    one, other, blocks = pair(Spec(beta=1.0, proxy="ema"), THEIRS)
    assert one.fused is not None and one.fused.fits(blocks[1])
    one.fused.made = None  # it must not be called
    wide = blocks[1]._replace(steps=blocks[1].steps.map(lambda part: torch.cat([part, part[:, :, -1:]], 2) if part.ndim > 3 else part))
    assert not one.fused.fits(wide)
    one.run(wide, 32, 64)
    other.run(wide, 32, 64)
    equal(one, other, 0.0)


def test_room_for_moving_rows_changes_no_step():
    shape = protocol(THEIRS).shape(2, 16, 2)
    block = Stream(protocol(THEIRS).law("two_moons", THEIRS), "two_moons", 0).block(0, shape, THEIRS, Needs.of(SPECS[:2]))
    assert block.steps.gap.shape[2] == min(THEIRS.batch, THEIRS.moving + 32) == 64 and len(set(block.moving)) > 3
    for k, n in enumerate(block.moving):
        assert (block.steps.gap[0, k, :n] > 0).all() and (block.steps.gap[0, k, n:] == 0).all()
        assert block.step(k).gap.shape[1] == block.step(k).boundary.shape[1] == n


@pytest.mark.parametrize("dim", range(1, near.MOST + 1))
def test_the_posterior_of_one_pass_is_that_of_velocities(dim: int):
    """In float64 to rounding, both ends of the times and points far out included; in float32 it is nearer to it than the product is."""
    g = ms.key(0)
    x, e, reference = (torch.randn(n, dim, generator=g, dtype=torch.float64) for n in (300, 300, 64))
    t = torch.rand(300, generator=g, dtype=torch.float64).pow(3)
    x[:50], e[:50], t[:2] = 4 * x[:50], 3 * e[:50], torch.tensor([0.0, 1.0])
    reference[:32] = x[100:132]  # in more coordinates few others are near
    z, v = linear(x, e, t)
    b = Bridge(z, v, torch.zeros_like(t), t)
    exact = Posterior(reference)(None, b)  # type: ignore[arg-type]
    torch.testing.assert_close(near.velocity(x, e, t, reference), exact, rtol=1e-8, atol=1e-8)
    assert (exact - v)[t > 0.3].abs().max() > 0.1
    rounded = near.velocity(*(p.float() for p in (x, e, t, reference))).double()
    product = Posterior(reference, dtype=torch.float32)(None, b).double()  # type: ignore[arg-type]
    assert (rounded - exact).abs().max() < 0.01 and (rounded - exact).square().mean() < (product - exact).square().mean()


def test_at_the_end_of_the_times_both_take_points_for_one_that_lie_within_a_millionth():
    x, e, reference = (torch.full((5, 1), value, dtype=torch.float64) for value in (0.0, 0.7, 5e-7))
    t = torch.tensor([0.0, 1e-7, 1e-6, 2e-6, 1e-4], dtype=torch.float64)
    z, v = linear(x, e, t)
    exact = Posterior(reference)(None, Bridge(z, v, torch.zeros_like(t), t))  # type: ignore[arg-type]
    assert (exact - v)[:2].abs().min() > 0.1
    torch.testing.assert_close(near.velocity(x, e, t, reference), exact, rtol=1e-5, atol=0)


def test_a_weight_is_no_number_that_an_exp_takes_long_for():
    z, one = torch.tensor([[0.0], [1e4]]), torch.ones(2, 1)
    total, mass = near.sums(z, one, 0 * one, torch.tensor([[1.0]]))
    assert mass[0] == pytest.approx(torch.tensor(-1.0).exp()) and torch.finfo(torch.float32).tiny <= mass[1] < 1e-15
    torch.testing.assert_close(total, mass)


@pytest.mark.parametrize("name", ["two_moons", "mixture-4"])
def test_a_compiled_job_draws_its_posterior_in_one_pass(name: str, tmp_path: Path, written: None, monkeypatch: pytest.MonkeyPatch):
    work = working(name, "posterior-both@1", tmp_path)
    plain = work._block(0).steps.posterior
    calls: list[int] = []
    monkeypatch.setattr(near, "sums", lambda *given, do=near.sums: calls.append(1) or do(*given))
    work._compile()
    work.kept = None
    found = work._block(0).steps.posterior
    assert calls and found is not None and plain is not None and found.dtype == torch.float32
    torch.testing.assert_close(found, plain, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("name", "arm"), [("mixture-8", "posterior-both@1"), ("two_moons", "plain@1")], ids=["more coordinates", "none"])
def test_a_compiled_job_of_more_coordinates_or_without_a_posterior_has_no_pass_of_its_own(
    name: str, arm: str, tmp_path: Path, written: None
):
    work = working(name, arm, tmp_path)
    work._compile()
    assert work.compiled and work.streams[0].sums is None and not any("sums" in about for about in fused._made)


@pytest.mark.parametrize("settings", [OURS, THEIRS], ids=["ours", "authors"])
@pytest.mark.parametrize("name", ["two_spirals", "mixture-4", "points"])
def test_what_the_pass_is_given_lies_as_what_it_was_compiled_for(
    name: str, settings: Settings, written: None, monkeypatch: pytest.MonkeyPatch
):
    """Shapes, strides and types: the compiled function does not look."""
    shapes: list[Any] = []

    def lying(given: Any) -> list[Any]:
        return [(p.shape, p.stride(), p.dtype) for p in given]

    def compiled(step: Any, given: Any, more: Any) -> Any:
        return lambda *came: shapes.append((lying(given), lying(came))) or step(*came)

    monkeypatch.setattr(fused, "_compiled", compiled)
    law = Points(torch.randn(3, 120, generator=ms.key(0)).mT) if name == "points" else protocol(settings).law(name, settings)
    shape = protocol(settings).shape(law.dim, 16, 2)
    stream = Stream(law, name, 0, sums=fused.sums(settings, law.dim))
    for of in ("train", "variance"):
        stream.block(0, shape, settings, Needs(False, False, True), of)
    assert len(shapes) == 2 and all(expected == came for expected, came in shapes)


# A whole job ------------------------------------------------------------------------------------------------------------------------


class Told:
    """What a job tells; says stop when asked for the `after`-th time."""

    def __init__(self, after: int = 10**9) -> None:
        self.after, self.asked, self.said = after, 0, []

    def __call__(self, what: str, *values: Any) -> bool:
        self.asked += what == "stop?"
        self.said += values if what == "said" else ()
        return what == "stop?" and self.asked >= self.after


def working(name: str, arm: str, folder: Path) -> jobs._Work:
    """A job of one set and arm before it has begun."""
    return jobs._Work(Job(((name, 0),)), replace(OURS, sets=(name,), arms=(arm,)), folder, Told(), "cpu")


def trained(folder: Path, tell: Told, settings: Settings = OURS) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in train(JOB, settings, folder, tell)]


def test_stopped_and_resumed_equals_straight_through_to_the_bit(tmp_path: Path, written: None):
    straight = trained(tmp_path / "a", Told())
    for after in (1, 3, 8):
        here = tmp_path / str(after)
        with pytest.raises(Stopped):
            trained(here, Told(after))
        assert state.compiled(here / "state" / "two_moons-0.safetensors")
        assert trained(here, Told()) == straight, after
    assert [record["compiled"] for record in straight] == [True, True, True, True, False]  # alpha_flow goes through `Loss`


def test_a_job_that_goes_on_keeps_its_clocks(tmp_path: Path):
    works = [jobs._Work(JOB, OURS, tmp_path, Told(), "cpu") for _ in range(2)]
    works[0].step, works[0].drawing = BLOCK, 7.0
    for k, cohort in enumerate(works[0].cohorts):
        cohort.seconds = 10.0 + k
    works[0].save()
    works[1].resume()
    assert (works[1].step, works[1].drawing) == (BLOCK, 7.0)
    assert [cohort.seconds for cohort in works[1].cohorts] == [10.0 + k for k in range(len(works[1].cohorts))]


def test_what_was_begun_uncompiled_goes_on_so_to_the_bit(tmp_path: Path, written: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused, "FEWEST", 71)
    straight = trained(tmp_path / "a", Told())
    with pytest.raises(Stopped):
        trained(tmp_path / "b", Told(3))
    monkeypatch.setattr(fused, "FEWEST", 50)
    assert trained(tmp_path / "b", Told()) == straight
    assert not any(record["compiled"] for record in straight)


@pytest.mark.parametrize("reason", ["there is no C++ compiler", "OSError: no room"])
def test_without_a_compiler_or_with_one_that_fails_models_train_as_they_are_written(
    reason: str, tmp_path: Path, written: None, monkeypatch: pytest.MonkeyPatch
):
    def fail(*args: Any) -> Any:
        raise RuntimeError("OSError: no room\nand more")

    if "room" in reason:
        monkeypatch.setattr(fused, "_compiled", fail)
    else:
        monkeypatch.setattr(fused, "compiler", lambda: None)
    tell = Told()
    found = trained(tmp_path / "a", tell)
    (line,) = tell.said
    assert reason in line and "\n" not in line and "uncompiled" in line
    monkeypatch.setattr(fused, "FEWEST", 71)
    assert found == trained(tmp_path / "b", Told())


def test_where_a_step_fails_to_compile_the_posterior_is_as_it_is_written_too(
    tmp_path: Path, written: None, monkeypatch: pytest.MonkeyPatch
):
    def compiled(step: Any, given: Any, more: Any) -> Any:
        if step is near.sums:
            return step
        raise RuntimeError("no room")

    monkeypatch.setattr(fused, "_compiled", compiled)
    settings = replace(OURS, arms=("posterior-both@1",))
    tell = Told()
    found = trained(tmp_path / "a", tell, settings)
    assert len(tell.said) == 1 and any("sums" in about for about in fused._made)
    monkeypatch.setattr(fused, "FEWEST", 71)
    assert found == trained(tmp_path / "b", Told(), settings)


def test_the_compiler_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    assert fused.compiler() is None
    (tmp_path / "none").touch(0o755)
    assert fused.compiler() == str(tmp_path / "none")


# With a compiler --------------------------------------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(fused.compiler() is None, reason="no C++ compiler")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("spec", "settings"),
    [(Spec(beta=1.0, proxy="ema", anchor=True), OURS), (Spec(beta=1.0, proxy="ema", sigma="t2"), THEIRS), (SPECS[-1], OURS)],
    ids=["anchor", "authors", "flow matching"],
)
def test_compiled_it_trains_as_written(spec: Spec, settings: Settings):
    """In float64 to rounding; in float32 within the bound of docs/sweep.md."""
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        one, other, blocks = pair(spec, settings, dtype)
        both(one, other, blocks, bound)


@pytest.mark.slow
@needs_compiler
def test_a_compiled_job_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fused, "FEWEST", 50)
    settings = replace(OURS, arms=("plain@1",))
    straight = trained(tmp_path / "a", Told(), settings)
    with pytest.raises(Stopped):
        trained(tmp_path / "b", Told(3), settings)
    monkeypatch.setattr(fused, "_made", {})  # another process: it is built again
    assert trained(tmp_path / "b", Told(), settings) == straight
    assert straight[0]["compiled"]


@pytest.mark.slow
@needs_compiler
def test_a_compiler_that_does_not_work_is_a_reason_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torch._inductor import config

    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    bad.chmod(0o755)
    monkeypatch.setattr(fused, "_made", {})
    monkeypatch.setattr(fused, "OPTIONS", fused.OPTIONS | {"cpp.cxx": (None, str(bad))})
    monkeypatch.setattr(jobs.fused, "FEWEST", 50)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    assert config.cpp.threads is not None
    tell = Told()
    found = trained(tmp_path / "a", tell, replace(OURS, arms=("plain@1",)))
    assert len(tell.said) == 1 and not found[0]["compiled"]


@pytest.mark.slow
@needs_compiler
def test_the_compiled_pass_is_the_posterior():
    settings = replace(OURS, batch=64)
    law, shape = PLANAR["two_spirals"]().to(torch.float32), protocol(settings).shape(2, 16, 2)
    needs = Needs.of([Spec(beta=1.0, proxy="posterior", both=True)])
    plain, compiled = (Stream(law, "two_spirals", 0, sums=made) for made in (near.sums, fused.sums(settings, 2)))
    one, other = (stream.block(0, shape, settings, needs).steps.posterior for stream in (plain, compiled))
    assert one is not None and other is not None
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)
