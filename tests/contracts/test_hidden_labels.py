"""Which rows lose their label, what they regress on, and a guidance scale that is a function of the row."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import meanstep as ms
from meanstep import recipes, times, velocities
from meanstep.conditions import submodes
from meanstep.velocities import Guided, LabelDropout, conditional

ROWS = 4096


def hidden(recipe: ms.Recipe, dropout: LabelDropout) -> tuple[Tensor, Tensor, Tensor]:
    """Which rows of a batch lose their label, and their times."""
    x, y = torch.zeros(ROWS, 2), torch.zeros(ROWS, dtype=torch.int64)
    draws = [b for _, b in ms.Loss(recipe).draw(x, y, generator=ms.key(0))]
    return tuple(torch.cat(part) for part in zip(*[(dropout.dropped(b), b.r, b.t) for b in draws], strict=True))  # type: ignore[return-value]


def meanflow(dropout: LabelDropout, share: float = 0.75) -> ms.Recipe:
    return recipes.meanflow(diagonal_share=share, velocity=Guided(conditional, dropout))


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_instant_hides_the_same_share_of_all_rows_and_only_where_r_is_t(share: float):
    dropout = LabelDropout(3, share, rows="instant")
    rows, r, t = hidden(meanflow(dropout, 0.25), dropout)
    assert (r == t)[rows].all() and abs(rows.double().mean() - share) < 4 * math.sqrt(share * (1 - share) / ROWS)
    if share == 0.25:  # all of them
        assert torch.equal(rows, r == t)


def test_all_hides_rows_of_both_kinds():
    dropout = LabelDropout(3, 0.3)
    rows, r, t = hidden(meanflow(dropout, 0.5), dropout)
    for kind in (r == t, r < t):
        assert abs(rows[kind].double().mean() - 0.3) < 4 * math.sqrt(0.21 / (ROWS / 2))


def test_a_head_is_shown_what_the_other_terms_are():
    dropout = LabelDropout(3, 0.3, rows="instant")
    recipe = recipes.improved_meanflow(guidance=dropout)
    draws = ms.Loss(recipe).draw(torch.zeros(64, 2), torch.zeros(64, dtype=torch.int64), generator=ms.key(0))
    moving, still, both = (dropout.dropped(b) for _, b in draws)
    assert not moving.any() and still.any() and torch.equal(both, torch.cat([moving, still]))


def test_inside_hides_labels_strictly_between_two_times():
    dropout = LabelDropout(3, 0.9, inside=(0.3, 0.6))
    rows, _, t = hidden(recipes.meanflow(times.uniform, velocity=Guided(conditional, dropout)), dropout)
    inside = (t > 0.3) & (t < 0.6)
    assert not rows[~inside].any() and 0.85 < rows[inside].double().mean() < 0.95
    t = torch.tensor([0.25, 0.5, 0.75])
    edges = ms.Bridge(t[:, None], t[:, None], t, t, aux=torch.zeros(3, 4))
    assert LabelDropout(3, inside=(0.25, 0.75)).dropped(edges).tolist() == [False, True, False]


def test_rows_that_no_term_has():
    for share, found in ((0.0, "a share of 0 of them"), (0.25, "a share of 0.25 of them")):
        dropout = LabelDropout(3, 0.3, rows="instant")
        with pytest.raises(ValueError, match=rf"hides 0.3 of the labels, all on rows with r = t.*{found}.*larger diagonal_share") as told:
            hidden(meanflow(dropout, share), dropout)
        assert "\n" not in str(told.value)
    lone = ms.Bridge(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2), torch.ones(2), aux=torch.rand(2, 4))
    with pytest.raises(ValueError, match=r"needs the share of rows with r = t: draw the bridge with Loss\.draw"):
        LabelDropout(3, rows="instant").dropped(lone)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rows": "first"}, "rows='all' or rows='instant', got 'first'"),
        ({"inside": (0.6, 0.3)}, r"two different numbers, the smaller one first, in \[0, 1\], got \(0.6, 0.3\)"),
    ],
)
def test_words_and_times_that_cannot_be(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        LabelDropout(3, **given)


# Scales -----------------------------------------------------------------------------------------------------------------------------


def at(t: float) -> ms.Bridge:
    """One row, with the uniforms of its step."""
    one = torch.full((1,), t, dtype=torch.float64)
    return ms.Bridge(one[:, None], one[:, None], one, one, common=torch.full((1, 4), 0.8))


def test_the_fading_scale_is_whole_until_its_start_and_one_at_the_noise():
    omega = velocities.fading(3.0, 0.5)
    values = [float(omega(at(t))) for t in (0.0, 0.5, 0.8, 0.80001, 0.9, 0.99, 1.0)]
    assert values[:3] == [1.5, 1.5, 1.5] and abs(values[3] - 1.5) < 1e-6 and values[-1] == 0.5
    assert abs(values[4] - 0.5 * (1 + 2 * (1 - math.exp(-0.025)))) < 1e-12
    assert all(a >= b for a, b in pairwise(values))


def test_the_random_scale_is_one_for_all_rows_of_a_step():
    g = velocities.randomly_guided(LabelDropout(3), 1.0, 2.5, after=0.5)
    draws = ms.Loss(recipes.meanflow(velocity=g)).draw(
        torch.zeros(32, 2), torch.zeros(32, dtype=torch.int64), progress=0.7, generator=ms.key(0)
    )
    s = 1 + 1.5 * float(draws[0][1].common[0, 1])
    for _, b in draws:
        torch.testing.assert_close(g.omega(b), torch.full_like(b.t, max(1.0, s - 1)))
        torch.testing.assert_close(g.kappa(b), torch.full_like(b.t, 1 - max(1.0, s - 1) / s))
        early = b._replace(progress=0.4)
        assert (g.omega(early) == 1).all() and (g.kappa(early) == 0).all()


def test_a_scale_that_is_the_same_number_everywhere_is_the_number():
    net, x, y = ms.MLP(2, 8, 1, classes=3, generator=ms.key(0)).double(), torch.zeros(16, 2).double(), torch.arange(16) % 3
    numbers, functions = ((1.2, 0.4), (lambda b: torch.full_like(b.t, 1.2), lambda b: 0.4))
    a, b = (
        ms.Loss(recipes.meanflow(velocity=Guided(conditional, LabelDropout(3, 0.3), *scales)))(net, x, y, generator=ms.key(0)).loss
        for scales in (numbers, functions)
    )
    torch.testing.assert_close(a, b, rtol=1e-13, atol=0)


def test_scales_that_cannot_be():
    dropout = LabelDropout(3)
    with pytest.raises(ValueError, match="omega has one that is not"):
        Guided(conditional, dropout, lambda b: b.t / 0)(
            ms.MLP(1), at(0.5)._replace(y=torch.zeros(1, dtype=torch.int64), aux=torch.ones(1, 4))
        )
    with pytest.raises(ValueError, match="dropped='plain', 'guided', 'true', got 'none'"):
        Guided(conditional, dropout, dropped="none")
    with pytest.raises(ValueError, match=r"the guidance scales: two numbers, the smaller one first, of at least 1, got \(0\.5, 2\.0\)"):
        velocities.randomly_guided(dropout, 0.5, 2.0)
    with pytest.raises(ValueError, match=r"from which guidance fades, start, lies in \[0, 1\), got 1"):
        velocities.fading(start=1.0)
    with pytest.raises(ValueError, match="a scale of the whole step is drawn with the step"):
        velocities.randomly_guided(dropout, after=0.0).omega(at(0.5)._replace(common=None))


# A scale as an input of the network -------------------------------------------------------------------------------------------------


def test_a_condition_for_samples_lies_in_what_was_trained():
    y = torch.arange(3)
    found = velocities.at_scale(y, 4.0, (0.2, 0.8))
    assert torch.equal(found.label, y) and (found.omega == 4).all() and (found.low == 0.2).all() and (found.high == 0.8).all()
    for scale, text in ((9.0, "9"), (0.5, "0.5"), (float("nan"), "nan")):
        with pytest.raises(ValueError, match=f"trained at guidance scales from 1 to 8, and {text} is none of them"):
            velocities.at_scale(y, scale)
    assert (velocities.at_scale(y, 9.0, trained=(1.0, 12.0)).omega == 9).all()
    with pytest.raises(ValueError, match=r"the interval of guidance: two numbers.*in \[0, 1\], got \(0.8, 0.2\)"):
        velocities.at_scale(y, 2.0, (0.8, 0.2))


def test_each_row_may_have_a_scale_of_its_own():
    y, omega = torch.arange(3), torch.tensor([1.0, 2.5, 8.0], dtype=torch.float64)
    found = velocities.at_scale(y, omega, (0.2, 0.8))
    assert all(
        torch.equal(torch.stack(rows), each)
        for *rows, each in zip(*(velocities.at_scale(y[k], omega[k], (0.2, 0.8)) for k in range(3)), found, strict=True)
    )
    assert found.low.dtype == found.high.dtype == torch.float64
    assert all(x.dtype == torch.float32 for x in velocities.at_scale(y, torch.tensor([1, 2, 8]), (0.2, 0.8))[1:])
    with pytest.raises(ValueError, match="from 1 to 8, and 9 is none of them"):
        velocities.at_scale(y, torch.tensor([1.0, 9.0, 2.0]))
    assert velocities.at_scale(y, 9.0, trained=None).omega.tolist() == [9, 9, 9]
    with pytest.raises(ValueError, match=r"one a row \[3\] as the labels, got \[2\]"):
        velocities.at_scale(y, torch.ones(2))


# Times ------------------------------------------------------------------------------------------------------------------------------


def test_pixel_meanflows_instants_are_one_logit_normal():
    """Mean 0.669, where the larger of two has 0.759."""
    still = recipes.pixel_meanflow()[1]
    r, t = still.times((1 << 16,), ms.key(0))
    assert r is t and abs(t.double().mean() - 0.669) < 2e-3
    other = times.diagonal(times.logit_normal(0.8, 0.8))((1 << 16,), ms.key(0))[1]
    assert abs(other.double().mean() - 0.759) < 2e-3


def test_alpha_flows_instants_are_one_logit_normal():
    """loss.py at b0fef77: one draw for r = t rows, the larger of two for the others."""
    assert recipes.alpha_flow(0.5)[1].times == times.instants(-0.4, 1.0)


def test_uniform_instants_are_one_uniform():
    r, t = times.uniform_instants((1 << 16,), ms.key(0))
    assert r is t and abs(t.double().mean() - 0.5) < 5e-3  # the larger of two has 2/3


def test_mixed_times_are_of_two_samplers():
    sampler = times.mixed(times.instants(0.0, 0.1), times.uniform, 0.25)
    r, t = sampler((1 << 14,), ms.key(0))
    assert ((r <= t) & (t <= 1)).all() and abs((r < t).double().mean() - 0.25) < 0.02
    r, t = times.mixed(times.instants(), times.instants(1.0), 0.5)((8,), ms.key(0))
    assert r is t
    with pytest.raises(ValueError, match=r"lies in \[0, 1\], got 1.5"):
        times.mixed(times.uniform, times.uniform, 1.5)


def test_a_jump_from_the_last_trained_time():
    """Rectified MeanFlow's: e - u(e, 0, 80/81), a whole step."""
    e = torch.ones(4, 2)
    found = ms.jump(lambda z, r, t, y: z * t[:, None], e, last=80 / 81)
    torch.testing.assert_close(found, torch.full_like(e, 1 - 80 / 81))
    with pytest.raises(ValueError, match=r"lies in \(0, 1\], got 0"):
        ms.jump(lambda z, r, t, y: z, e, last=0.0)


# Sub-modes --------------------------------------------------------------------------------------------------------------------------


def test_sub_modes_are_the_clusters_of_each_class():
    """Three planted clusters in each of two classes, far apart: rows share a label exactly where they share class and cluster."""
    g = ms.key(0)
    labels, cluster = torch.randint(2, (60,), generator=g), torch.randint(3, (60,), generator=g)
    x = 10.0 * torch.stack([cluster, cluster.square()], 1) + 0.1 * torch.randn(60, 2, generator=g)
    found = submodes(x, labels, 3, ms.key(1))
    assert torch.equal(found // 3, labels)
    same = (labels[:, None] == labels) & (cluster[:, None] == cluster)
    assert torch.equal(found[:, None] == found, same)


def test_sub_modes_of_few_rows_and_of_none():
    assert submodes(torch.tensor([[0.0], [5.0], [9.0]]), torch.tensor([0, 0, 1]), 4, ms.key(0)).sort().values[-1] == 4
    with pytest.raises(ValueError, match=r"integer labels \[N\] and at least one cluster, got \(3, 1\)"):
        submodes(torch.zeros(3, 1), torch.zeros(3), 2)
