"""The published losses of the MeanFlow family, written out one by one as a reader of the papers would, and nothing shared with meanstep.

One convention: data x at t = 0, noise e at t = 1, z = (1-t) x + t e, v = e - x, r <= t; `u(z, r, t, y)` is the average velocity. Where a
paper works on one batch in which some rows have r = t, so do these functions. `||.||^2` is the SUM over the event unless a line says mean.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp


class Rows(NamedTuple):
    """A batch of draws: points `z, v [B, D]`, times `r, t [B]`, labels `y`, and the uniforms `aux [B, 4]` a method may use up."""

    z: Tensor
    v: Tensor
    r: Tensor
    t: Tensor
    y: Any = None
    aux: Any = None

    @property
    def x(self):
        """The data end of the straight path."""
        return self.z - column(self.t) * self.v

    @property
    def e(self):
        """The noise end of the straight path."""
        return self.z + (1 - column(self.t)) * self.v


def sg(a):
    """The stop-gradient of the papers."""
    return a.detach()


def column(a):
    """`[B] -> [B, 1]`."""
    return a[:, None]


def total(u, b, y, w):
    """`D[w] u = (d_z u) w + d_t u`: the derivative along the tangent (w, 0, 1) in (z, r, t)."""
    return jvp(lambda z, r, t: u(z, r, t, y), (b.z, b.r, b.t), (sg(w), torch.zeros_like(b.r), torch.ones_like(b.t)))[1]


def adaptive(q, p, c):
    """The adaptive weight of MeanFlow (2505.13447): `q / sg(q + c)^p`."""
    return q / sg(q + c) ** p


def flow_matching(u, b):
    """Flow matching (2210.02747): `|| u(z,t,t) - v ||^2`."""
    return (u(b.z, b.t, b.t, b.y) - b.v).square().sum(-1).mean()


# --- 2505.13447


def meanflow(u, b, *, p, c):
    """MeanFlow (2505.13447): target `sg(v - (t-r) D[v]u)`, adaptive weight over the SUM of squares, mean over all rows."""
    target = sg(b.v - column(b.t - b.r) * total(u, b, b.y, b.v))
    q = (u(b.z, b.r, b.t, b.y) - target).square().sum(-1)
    return adaptive(q, p, c).mean()


def first_rows(b, share):
    """Which labels the code of MeanFlow, iMF and pMF drops: those of the first rows, which have r = t; here they are drawn among these.

    As many as `share` of the whole batch: the drawn number is that of `share` over the rows with r = t.
    """
    still = b.r == b.t
    return still & (b.aux[:, 0] < share / still.double().mean())


def guided(u, b, *, omega, kappa, window, null, share, first=False):
    """MeanFlow's guidance (2505.13447): `omega v + kappa u(t,t|y) + (1-omega-kappa) u(t,t|null)` in the window; dropped rows: v, null."""
    none = torch.full_like(b.y, null)
    mixed = omega * b.v + kappa * u(b.z, b.t, b.t, b.y) + (1 - omega - kappa) * u(b.z, b.t, b.t, none)
    inside = (window[0] <= b.t) & (b.t <= window[1])
    dropped = first_rows(b, share) if first else b.aux[:, 0] < share
    vg = torch.where(column(inside & ~dropped), mixed, b.v)
    return b._replace(v=sg(vg), y=torch.where(dropped, none, b.y))


# --- FastGen, an implementation of 2505.13447 with options of its own


def fastgen(u, b, *, c=1.0, warm_up=1.0):
    """Its l2 loss: `|| u - sg(v - warm_up (t-r) D[v]u) ||^2`, over `sg(q + c)`."""
    target = sg(b.v - warm_up * column(b.t - b.r) * total(u, b, b.y, b.v))
    return adaptive((u(b.z, b.r, b.t, b.y) - target).square().sum(-1), 1.0, c).mean()


def fastgen_opt_grad(u, b, *, p=1.0, c=0.1, invariant=False):
    """Its optimised gradient: `|| u - sg(u + w g) ||^2`, `g = v - u - (t-r) D[v]u`, `w = (|g| + c)^-p`; g over sqrt(D) if invariant."""
    average = u(b.z, b.r, b.t, b.y)
    g = sg(b.v - average - column(b.t - b.r) * total(u, b, b.y, b.v))
    if invariant:
        g = g / math.sqrt(g.shape[1])
    w = (torch.linalg.vector_norm(g, dim=1) + c) ** -p
    return (average - sg(average + g * column(w))).square().sum(-1).mean()


def fastgen_teacher(teacher, b, *, scale, window, null):
    """Its consistency distillation: the teacher's velocity, guided inside the window, in place of v; labels stay."""
    v, none = teacher(b.z, b.t, b.t, b.y), teacher(b.z, b.t, b.t, torch.full_like(b.y, null))
    inside = (window[0] <= b.t) & (b.t <= window[1])
    return b._replace(v=sg(v + column(torch.where(inside, scale, 1.0) - 1) * (v - none)))


# --- 2605.09235


def beta_mixture(u, ema, b, *, beta, target_beta=0.0):
    """The beta-mixture (2605.09235, Algorithm 1): tangent `(1-beta) v + beta u_ema(z,t,t)`, target v (or mixed the same way)."""
    proxy = sg(ema(b.z, b.t, b.t, b.y))
    w = (1 - beta) * b.v + beta * proxy
    target = (1 - target_beta) * b.v + target_beta * proxy
    residual = u(b.z, b.r, b.t, b.y) + column(b.t - b.r) * sg(total(u, b, b.y, w)) - target
    return residual.square().sum(-1)


def anchor(u, b):
    """The anchor of 2605.09235: `L_FM = || u(z, t-delta, t) - v ||^2`, here with r = t - delta already drawn."""
    return (u(b.z, b.r, b.t, b.y) - b.v).square().sum(-1)


def trace_weight(u, b, *, sigma, signs=None):
    """The trace weight (a draft of 2605.09235): `1 / (1 + sigma_t^2 sg Tr(J J^T) / d)`, `J = (t-r) d_z u - 1`, by one probe or exactly."""
    one = torch.eye(b.z.shape[1], dtype=b.z.dtype)
    probes = [signs] if signs is not None else [unit.expand_as(b.z).contiguous() for unit in one]
    trace = 0.0
    for e in probes:
        du = jvp(lambda z: u(z, b.r, b.t, b.y), (b.z,), (e,))[1]
        trace = trace + (column(b.t - b.r) * sg(du) - e).square().sum(-1)
    return 1 / (1 + sigma**2 * trace / b.z.shape[1])


# --- 2512.02012


def improved_meanflow(u, head, b, *, p=1.0, c=0.01):
    """Improved mean flows (2512.02012): `V = u + (t-r) sg D[v_c]u` against v, and the velocity head against v, on all rows."""
    vc = sg(head(b.z, b.t, b.t, b.y))
    compound = u(b.z, b.r, b.t, b.y) + column(b.t - b.r) * sg(total(u, b, b.y, vc))
    loss_u = adaptive((compound - b.v).square().sum(-1), p, c)
    loss_v = adaptive((head(b.z, b.r, b.t, b.y) - b.v).square().sum(-1), p, c)
    return (loss_u + loss_v).mean()


def improved_meanflow_guided(u, head, b, *, null, share, top=8.0, p=1.0, c=0.01, first=False):
    """Improved mean flows with flexible guidance (2512.02012): condition (label, omega, low, high), omega log-uniform on [1, top].

    As in the authors' code every velocity is asked for on the interval [0, 1], and a dropped row loses its label but not its scale.
    """
    none, zero, one = torch.full_like(b.y, null), torch.zeros_like(b.t), torch.ones_like(b.t)
    omega = torch.exp(b.aux[:, 1] * math.log(top))
    low = torch.where(b.r == b.t, 0.0, 0.5 * b.aux[:, 2])
    high = torch.where(b.r == b.t, 1.0, 0.5 + 0.5 * b.aux[:, 3])
    effective = torch.where((low <= b.t) & (b.t <= high), omega, 1.0)
    vu = head(b.z, b.t, b.t, (none, one, zero, one))
    vc = sg(head(b.z, b.t, b.t, (b.y, effective, zero, one)))
    vg = b.v + column(1 - 1 / effective) * (vc - vu)
    dropped = first_rows(b, share) if first else b.aux[:, 0] < share
    y = (torch.where(dropped, none, b.y), omega, low, high)
    vg = sg(torch.where(column(dropped), b.v, vg))
    compound = u(b.z, b.r, b.t, y) + column(b.t - b.r) * sg(total(u, b, y, vc))
    loss_u = adaptive((compound - vg).square().sum(-1), p, c)
    loss_v = adaptive((head(b.z, b.r, b.t, y) - vg).square().sum(-1), p, c)
    return (loss_u + loss_v).mean()


def improved_meanflow_without_head(u, b, *, p=1.0, c=0.01):
    """Improved mean flows without a head (2512.02012): the tangent is the field's own boundary u(z,t,t)."""
    vc = sg(u(b.z, b.t, b.t, b.y))
    compound = u(b.z, b.r, b.t, b.y) + column(b.t - b.r) * sg(total(u, b, b.y, vc))
    return adaptive((compound - b.v).square().sum(-1), p, c).mean()


# --- 2510.20771


def alpha_flow(u, b, *, alpha, c, clamp=None, rescaled=False):
    """Alpha-Flow (2510.20771, code at b0fef77): r = t rows on v, alpha = 0 rows by the JVP, others on the discrete target.

    MEAN squares, `a q / sg(q+c)`.
    """
    losses = []
    for i in range(len(b.t)):
        z, v, r, t = b.z[i : i + 1], b.v[i : i + 1], b.r[i : i + 1], b.t[i : i + 1]
        y = None if b.y is None else b.y[i : i + 1]
        weight, floor = 1.0, c
        if r == t:
            target = v
        elif alpha == 0:
            target = v - column(t - r) * total(u, Rows(z, v, r, t), y, v)
        else:
            dt = alpha * (t - r)
            inner = 0.0 if alpha == 1 else column(t - dt - r) * u(z - column(dt) * v, r, t - dt, y)
            target = (column(dt) * v + inner) / column(t - r)
            if clamp is not None:
                target = target.clamp(-clamp, clamp)
            weight, floor = alpha, alpha**2 * c if rescaled else c
        q = (u(z, r, t, y) - sg(target)).square().mean()
        losses.append(weight * q / sg(q + floor))
    return torch.stack(losses).mean()


def alpha_guided(u, b, *, omega, kappa, window, null, share):
    """Alpha-Flow's guidance: labels are dropped strictly inside the window, and first: those rows regress on the guidance of no label."""
    none, inside = torch.full_like(b.y, null), (window[0] < b.t) & (b.t < window[1])
    y = torch.where(inside & (b.aux[:, 0] < share), none, b.y)
    mixed = omega * b.v + kappa * u(b.z, b.t, b.t, y) + (1 - omega - kappa) * u(b.z, b.t, b.t, none)
    return b._replace(v=sg(torch.where(column(inside), mixed, b.v)), y=y)


def alpha_schedule(k, *, begin, end):
    """The sigmoid schedule of Alpha-Flow (2510.20771), with its two snaps."""
    if k <= begin:
        return 1.0
    if k >= end:
        return 0.0
    alpha = 1 - 1 / (1 + math.exp(-25 * (k - (begin + end) / 2) / (end - begin)))
    return 0.0 if alpha < 0.005 else 1.0 if alpha > 0.995 else alpha


# --- 2508.17426


def modular_meanflow(u, b, *, lam):
    """Modular MeanFlow (2508.17426): `|| u + (t-r) SGL_lam[D[v]u] - v ||^2`, `SGL_lam[a] = lam a + (1-lam) sg a`."""
    dudt = total(u, b, b.y, b.v)
    modulated = lam * dudt + (1 - lam) * sg(dudt)
    return (u(b.z, b.r, b.t, b.y) + column(b.t - b.r) * modulated - b.v).square().sum(-1)


# --- 2511.19065


def curriculum_meanflow(u, b, *, progress, normaliser, emphasis, power=1.0, p=1.0, c=0.01):
    """Curriculum for mean flows (2511.19065): r < t rows times `1 - s + lam s (1-(t-r))`, `s = 1 - (k/K)^q`, the others A(t)."""
    target = sg(b.v - column(b.t - b.r) * total(u, b, b.y, b.v))
    loss = adaptive((u(b.z, b.r, b.t, b.y) - target).square().sum(-1), p, c)
    s = 1 - progress**power
    gap_weight = 1 - s + normaliser * s * (1 - (b.t - b.r))
    return torch.where(b.r < b.t, gap_weight, emphasis(b.t)).mul(loss).mean()


# --- 2511.19797


def terminal_velocity(field, ema, b, f, *, detach=False):
    """Terminal velocity matching (2511.19797), w = 1: `d_r Phi` against the EMA's velocity at Phi, plus flow matching on rows f; MEANS."""

    value, slope = jvp(lambda r: field(b.z, r, b.t, b.y), (b.r,), (torch.ones_like(b.r),))
    if detach:
        slope = sg(slope)
    left = value + column(b.r - b.t) * slope
    phi = sg(b.z + column(b.r - b.t) * value)
    right = sg(ema(phi, b.r, b.r, b.y))
    terminal = torch.where(b.r == b.t, 0.0, (left - right).square().mean(-1))
    fm = (field(f.z, f.t, f.t, f.y) - f.v).square().mean(-1)
    return terminal.mean() + fm.mean()


def terminal_velocity_guided(net, ema, b, f, *, w, null, share):
    """Guided terminal velocity matching (2511.19797): `u = w F(.,c,a)`, both terms times `a^2 = 1/w^2`; dropped rows: null, a = 1."""

    dropped = b.aux[:, 0] < share
    w = torch.where(dropped, 1.0, w)
    a = 1 / w
    y = torch.where(dropped, null, b.y)
    value, slope = jvp(lambda r: net(b.z, r, b.t, (y, a)), (b.r,), (torch.ones_like(b.r),))
    left = column(w) * (value + column(b.r - b.t) * slope)
    phi = sg(b.z + column(b.r - b.t) * column(w) * value)
    right = sg(column(w) * ema(phi, b.r, b.r, (y, a)))
    terminal = torch.where(b.r == b.t, 0.0, (column(a) ** 2 * (left - right) ** 2).mean(-1))
    plain = ema(f.z, f.t, f.t, (torch.full_like(y, null), torch.ones_like(a)))
    target = sg(column(w) * f.v + (1 - column(w)) * plain)
    fm = (column(a) ** 2 * (column(w) * net(f.z, f.t, f.t, (y, a)) - target) ** 2).mean(-1)
    return (terminal + fm).mean()


# --- 2511.23342


def rectified_meanflow(u, b, *, p, c):
    """Rectified MeanFlow (2511.23342): MeanFlow on the pairs of a rectified coupling, `q (q+c)^-p` over the MEAN of squares."""
    target = sg(b.v - column(b.t - b.r) * total(u, b, b.y, b.v))
    q = (u(b.z, b.r, b.t, b.y) - target).square().mean(-1)
    return adaptive(q, p, c).mean()


def rectified_guided(u, b, *, uniform, progress, low=1.0, high=2.5, after=0.5, null, share):
    """Rectified MeanFlow's second half: one scale s for the step, `w = max(1, s-1)`, `k = 1 - w/s`, on all rows; before it, no guidance."""
    none = torch.full_like(b.y, null)
    y = torch.where(b.aux[:, 0] < share, none, b.y)
    s = low + (high - low) * uniform
    w = max(1.0, s - 1)
    k = 1 - w / s
    if progress < after:
        w, k = 1.0, 0.0
    vg = w * b.v + k * u(b.z, b.t, b.t, y) + (1 - w - k) * u(b.z, b.t, b.t, none)
    return b._replace(v=sg(vg), y=y)


# --- 2510.24474


def decoupled_meanflow(u, log_scale, b, f):
    """Decoupled MeanFlow (2510.24474): `0.5 (FM + MF)` on the same batch, each `log(err exp(-lv) + 0.01) + lv` of the MEAN of squares."""
    target = sg(b.v + column(b.r - b.t) * total(u, b, b.y, b.v))
    mf = (u(b.z, b.r, b.t, b.y) - target).square().mean(-1)
    fm = (u(f.z, f.t, f.t, f.y) - f.v).square().mean(-1)
    lv_mf, lv_fm = log_scale(b.r, b.t), log_scale(f.t, f.t)
    cauchy_mf = torch.log(mf * torch.exp(-lv_mf) + 0.01) + lv_mf
    cauchy_fm = torch.log(fm * torch.exp(-lv_fm) + 0.01) + lv_fm
    return 0.5 * (cauchy_fm + cauchy_mf).mean()


def model_guided(u, b, *, omega, window, null, share):
    """Model guidance of decoupled MeanFlow (2510.24474): `v + omega (u(t,t|y) - u(t,t|null))` in the window, not on dropped rows."""
    none = torch.full_like(b.y, null)
    dropped = b.aux[:, 0] < share
    where = (window[0] <= b.t) & (b.t <= window[1]) & ~dropped
    pull = u(b.z, b.t, b.t, b.y) - u(b.z, b.t, b.t, none)
    return b._replace(v=sg(torch.where(column(where), b.v + omega * pull, b.v)), y=torch.where(dropped, none, b.y))


# --- 2507.16884


def split_meanflow(u, b, *, by, still):
    """SplitMeanFlow (2507.16884): `(1-lam) u(z_s,r,s) + lam u(z,s,t)` for `s = (1-lam) t + lam r`; rows with r = t on v or a teacher's."""
    lam = b.aux[:, 1]
    s = (1 - lam) * b.t + lam * b.r
    u2 = by(b.z, s, b.t, b.y)
    u1 = by(b.z - column(b.t - s) * u2, b.r, s, b.y)
    split = column(1 - lam) * u1 + column(lam) * u2
    target = sg(torch.where(column(b.r == b.t), still, split))
    return (u(b.z, b.r, b.t, b.y) - target).square().sum(-1).mean()


# --- 2512.15657


def solution_flow(u, b, f=None, *, ratio, p=1.0, c=0.01):
    """SoFlow (2512.15657): flow-matching rows f, quotient rows b with `sign(r-t) mean(F sg(Q w))`; sub-batch means weighted by size."""
    later = torch.minimum(b.t + (b.r - b.t) * ratio, b.t - 1e-4)
    moved = b.z + column(later - b.t) * b.v
    average = u(b.z, b.r, b.t, b.y)
    start = b.z + column(b.r - b.t) * average
    arrival = moved + column(b.r - later) * u(moved, b.r, later, b.y)
    quotient = sg(start - arrival) / column(b.t - later)
    w = (quotient.square().mean(-1) + c) ** -p
    consistency = (torch.sign(b.r - b.t) * (average * sg(quotient * column(w))).mean(-1)).mean()
    if f is None:
        return consistency
    error = (u(f.z, f.t, f.t, f.y) - f.v).square().mean(-1)
    fm = (error * sg(error + c) ** -p).mean()
    n, m = len(f.t), len(b.t)
    return (n * fm + m * consistency) / (n + m)


def soflow_decay(t):
    """The decay of SoFlow's guidance: 1 up to t = 0.8, then `1 - exp(-0.025 x / (1-x))`, `x = (1-t) / 0.2`."""
    x = (1 - t) / 0.2
    return 1.0 if t <= 0.8 else 1 - math.exp(-0.025 * x / (1 - x))


def soflow_mixed(u, b, *, m, w, null, share):
    """SoFlow's guided velocity (2512.15657): `m (v + k(t)(w-1)(v - F_null)) + (1-m) F(z,t,t|c)`; dropped rows get v, null."""
    none = torch.full_like(b.y, null)
    dropped = b.aux[:, 0] < share
    k = torch.tensor([soflow_decay(t) for t in b.t.tolist()], dtype=b.t.dtype)
    mixed = m * (b.v + column(k) * (w - 1) * (b.v - u(b.z, b.t, b.t, none))) + (1 - m) * u(b.z, b.t, b.t, b.y)
    return b._replace(v=sg(torch.where(column(dropped), b.v, mixed)), y=torch.where(dropped, none, b.y))


def soflow_ratio(progress, *, first=0.1, last=0.002):
    """SoFlow's schedule of the step ratio (2512.15657): `first (last/first)^(k/K)`."""
    return first * (last / first) ** progress


# --- 2509.04394


def transition(u, b, target_v, *, step=0.005, c=1e-5, directional=True):
    """Transition models (2509.04394): `v_g - (t-r) dF`, dF central along the path of the same (x, e); `q (tan t-tan r+1)^-1/2 / (q+c)`.

    The code adds `1 - cos(F, target)` over the channels to q, inside the weight.
    """

    def on_path(t):
        return (1 - column(t)) * b.x + column(t) * b.e

    after, before = b.t + step, b.t - step
    slope = (u(on_path(after), b.r, after, b.y) - u(on_path(before), b.r, before, b.y)) / (2 * step)
    target = sg(torch.where(column(b.r == b.t), target_v, target_v - column(b.t - b.r) * slope))
    average = u(b.z, b.r, b.t, b.y)
    q = (average - target).square().mean(-1)
    if directional:
        q = q + 1 - torch.nn.functional.cosine_similarity(average, target, dim=1)
    time_weight = torch.where(b.r == b.t, 1.0, (torch.tan(b.t) - torch.tan(b.r) + 1) ** -0.5)
    return (time_weight * q / sg(q + c)).mean()


def transition_guided(ema, b, *, w, window, null, share):
    """The guidance of transition models: the EMA's velocities of the true labels in the target; the network sees the dropped ones."""
    none = torch.full_like(b.y, null)
    inside = (window[0] <= b.t) & (b.t <= window[1])
    mixed = b.v + w * (ema(b.z, b.t, b.t, b.y) - ema(b.z, b.t, b.t, none))
    return sg(torch.where(column(inside), mixed, b.v)), torch.where(b.aux[:, 0] < share, none, b.y)


# --- 2410.12557


def shortcut(u, ema, b, f, *, clamp=4.0):
    """Shortcut models (2410.12557): the mean of two half steps of the EMA, clipped at each, on dyadic steps; flow matching rows f; MSE."""

    half = (b.t - b.r) / 2
    middle = b.t - half
    first = ema(b.z, middle, b.t, b.y)
    there = (b.z - column(half) * first).clamp(-clamp, clamp)
    second = ema(there, b.r, middle, b.y)
    target = sg(((first + second) / 2).clamp(-clamp, clamp))
    bootstrap = (u(b.z, b.r, b.t, b.y) - target).square().mean(-1)
    fm = (u(f.z, f.r, f.t, f.y) - f.v).square().mean(-1)
    return torch.cat([bootstrap, fm]).mean()


# --- 2601.22158


def pixel_fields(data_u, data_v, b, *, floor=0.05):
    """Pixel mean flows (2601.22158): both heads predict data, `u = (z-X_u)/clip(t,.05,1)`, the head and v likewise; then iMF on these."""

    def clip(t):
        return column(t.clamp(floor, 1.0))

    def u(z, r, t, y):
        return (z - data_u(z, r, t, y)) / clip(t)

    def head(z, r, t, y):
        return (z - data_v(z, r, t, y)) / clip(t)

    return u, head, b._replace(v=(b.z - b.x) / clip(b.t))


def perceptual(u, b, distances, *, before=0.8):
    """The perceptual part of pixel mean flows: `sum_k s_k adp(d_k(z - t u, x))` on rows with t < before, mean over all; `(s_k, d_k)`."""
    predicted = b.z - column(b.t) * u(b.z, b.r, b.t, b.y)
    losses = [scale * adaptive(torch.where(b.t < before, distance(predicted, b.x), 0.0), 1.0, 0.01) for scale, distance in distances]
    return sum(losses).mean()


def alignment(projected, features, *, scale=1.0):
    """Feature alignment (2410.06940, as in 2509.04394): `scale (1 - cos)` of a layer's projection and a network's features of the data."""
    return scale * (1 - torch.nn.functional.cosine_similarity(projected, sg(features), dim=-1)).mean()


# --- 2604.08837


def discrete_meanflow(u, b, *, ratio, p=1.0, c=0.01):
    """A discrete MeanFlow: u on `sg(u - (u - target) / ratio)`, the target that of a step of `ratio` of the gap; r = t rows on v."""
    dt = ratio * (b.t - b.r)
    later = u(b.z - column(dt) * b.v, b.r, b.t - dt, b.y)
    average = u(b.z, b.r, b.t, b.y)
    target = average - (average - ratio * b.v - (1 - ratio) * later) / ratio
    target = sg(torch.where(column(b.r == b.t), b.v, target))
    return adaptive((average - target).square().sum(-1), p, c).mean()


# --- 2602.05435


def stable_velocity(u, b, posterior, *, weight):
    """Stable Velocity (2602.05435) in MeanFlow: the posterior's velocity as the target of r = t rows, v elsewhere."""
    target = torch.where(column(b.r == b.t), sg(posterior), sg(b.v - column(b.t - b.r) * total(u, b, b.y, b.v)))
    return weight((u(b.z, b.r, b.t, b.y) - target).square().sum(-1)).mean()
