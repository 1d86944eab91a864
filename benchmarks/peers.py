"""Losses of public implementations beside ours: one network, times drawn alike, in turn.

    python benchmarks/peers.py --checkout py-meanflow=FOLDER soflow=FOLDER --json benchmarks/records/peers.json

Every implementation is read from a checkout of yours, and nothing of it is kept: an adapter of a few lines says how its loss is called on a
given network `(z, r, t)`. A checkout's commit is read from its `.git`, or a file `.commit`, and another than the adapter was written for is
named and run. What cannot be loaded costs a line, and the others run. Bench and measurement are those of step.py: flow matching, theirs and
ours take a step each in every round. A quarter of the rows has r < t where theirs lets one choose, else as many as it has by itself.
Unfused attention is forced inside their derivative's passes alone. Weights that cost no time may differ.
The gradients are compared in float64, on the same times and noise, up to a common factor.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import options
import torch
from step import CASES, SHARE, Bench, Case, Variant, flow_matching, measure, ours
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import meanstep as ms
from meanstep.program.machine import environment
from meanstep.recipes import Recipe, decoupled_meanflow, improved_meanflow, meanflow, solution_flow, terminal_velocity, transition
from meanstep.weights import adaptive, constant

Times = tuple[Tensor, Tensor]
TheirLoss = Callable[[nn.Module, nn.Module, Tensor, Times], Tensor]
"""Of the network, its EMA copy, data, and `r` and `t`, the rows with r < t last."""


def plain(net: nn.Module) -> Callable[..., Tensor]:
    """The network without fused attention, which has no forward mode, where its row carries a tangent."""

    def call(z: Tensor, r: Tensor, t: Tensor, fused: bool = True) -> Any:
        dual = torch._C._functorch.is_functorch_wrapped_tensor(z)
        run = net.with_head if getattr(net, "two", False) else net
        with sdpa_kernel(SDPBackend.MATH) if dual or not fused else contextlib.nullcontext():
            return run(z, r.flatten(), t.flatten())

    return call


def bare(kind: type, **attributes: Any) -> Any:
    """An instance without the network that its `__init__` would make."""
    made = kind.__new__(kind)
    if isinstance(made, nn.Module):
        nn.Module.__init__(made)
    made.__dict__.update(attributes)
    return made


@contextlib.contextmanager
def processor_draws() -> Iterator[None]:
    """Code that keeps the state of CUDA's draws keeps the processor's."""
    with (
        mock.patch.object(torch.cuda, "get_rng_state", torch.get_rng_state),
        mock.patch.object(torch.cuda, "set_rng_state", torch.set_rng_state),
    ):
        yield


def load(folder: Path, name: str, unused: tuple[str, ...] = ()) -> ModuleType:
    """A module of a checkout, without what its packages' `__init__` would import; `unused`: modules that its loss does not need."""
    before = dict(sys.modules)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]):
        try:
            parents = name.split(".")[:-1]
            for k in range(len(parents)):
                package = ModuleType(".".join(parents[: k + 1]))
                package.__path__ = [str(folder.joinpath(*parents[: k + 1]))]
                sys.modules[package.__name__] = package
            for absent in unused:
                sys.modules[absent] = mock.MagicMock()
            return importlib.import_module(name)
        finally:  # two checkouts may have modules of one name
            for other in set(sys.modules) - set(before):
                if other in unused or str(folder) in str(
                    getattr(sys.modules[other], "__path__", getattr(sys.modules[other], "__file__", ""))
                ):
                    del sys.modules[other]
            sys.modules.update(before)


def py_meanflow(folder: Path) -> TheirLoss:
    found = load(folder / "meanflow", "models.meanflow")

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        def call(z: Tensor, th: Times, _: Any) -> Tensor:
            return plain(net)(z, th[0] - th[1], th[0])

        found.sample_two_timesteps = lambda *_, **__: times[::-1]
        args = SimpleNamespace(norm_eps=0.01, norm_p=1.0)
        return bare(found.MeanFlow, net=call, args=args).forward_with_loss(x, None)

    return loss


def zhuyu(folder: Path) -> TheirLoss:
    made = load(folder, "loss").SILoss()

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        made.sample_time_steps = lambda *_: times
        return made(plain(net), x)[0].mean()

    return loss


def lucidrains(folder: Path) -> TheirLoss:
    kind = load(folder, "rectified_flow_pytorch.mean_flow").MeanFlow

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        # its third argument is t - r, whose tangent it has as 1: r stays
        made = kind(lambda z, t, gap: plain(net)(z, t - gap, t), prob_default_flow_obj=0.0, adaptive_loss_weight_p=1.0, eps=1e-2)
        drawn = iter(times)
        made.sample_times = lambda _: next(drawn)
        return made(x)

    return loss


def haidog(folder: Path) -> TheirLoss:
    made = load(folder, "meanflow").MeanFlow(num_classes=None, cfg_scale=None)
    made.normer = SimpleNamespace(norm=lambda x: x)

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        def call(z: Tensor, t: Tensor, r: Tensor, return_v: bool = True, use_flash_attention: bool = True, **_: Any) -> Any:
            u, v = plain(net)(z, r, t, use_flash_attention)
            return (u, v) if return_v else u

        made.sample_t_r = lambda *_: (times[1], times[0], torch.ones_like(times[0]))
        return made.loss(call, x)[0]

    return loss


def soflow(folder: Path) -> TheirLoss:
    found = load(folder, "models", ("timm", "timm.models", "timm.models.vision_transformer", "torchvision"))

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        r, t = times
        still = int((r == t).sum())
        made = bare(found.Soflow, scheduler=found.Scheduler(), network=lambda z, t, r, *_: plain(net)(z, r, t))
        common = {"labels": None, "cfg_mask": None, "cfg_scale": 1.0, "cfg_decay_time": 1.0, "p": 1.0}
        middle = made.get_middle_time(t[still:], r[still:], 1, 2)
        with processor_draws():
            velocity = made.get_velocity_loss(x[:still], t[:still], **common)[0]
            change = made.get_consistency_loss(x[still:], t[still:], middle, r[still:], **common)[0]
        return velocity * (still / len(x)) + change * (1 - still / len(x))

    return loss


def tim(folder: Path) -> TheirLoss:
    kind, transport = load(folder, "tim.schedulers.transition").TransitionSchedule, load(folder, "tim.schedulers.transports").OT_FM
    made = kind(transport(), weight_time_type="sqrt", weight_time_tangent=True)

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        def call(z: Tensor, t: Tensor, r: Tensor, return_zs: bool = True, **_: Any) -> Any:
            found = plain(net)(z, r, t)
            return (found, none) if return_zs else found

        none, (r, t) = x.new_ones(len(x), 1, 2), times
        made.sample_t_and_r = lambda **_: (t, r, int((r == t).sum()))
        with processor_draws():
            return made(call, None, call, len(x), x, torch.randn_like(x), {}, use_dir_loss=True, h_target=none)[0]

    return loss


def dmf(folder: Path) -> TheirLoss:
    made = load(folder, "loss").DMFLoss()

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        def call(z: Tensor, t: Tensor, r: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return plain(net)(z, r, t), 0.0 * t.flatten()

        column = [part[:, None, None, None] for part in times]
        made.sample_times = lambda _: (column[1], column[1], column[0])
        return made(call, call, x, torch.zeros(len(x), dtype=torch.long))[0].mean()

    return loss


def tvm(folder: Path) -> TheirLoss:
    stands = ("torch_utils", "training.dit")
    with mock.patch.dict(sys.modules, {"torch_utils": SimpleNamespace(persistence=SimpleNamespace(persistent_class=lambda kind: kind))}):
        kind = load(folder, "training.wrapper", stands[1:]).TVMWrapper
        made = load(folder, "training.loss").TVMLoss(cfg=1.0)

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        def wrapped(inner: nn.Module) -> Any:
            def call(z: Tensor, t: Tensor, gap: Tensor, *_: Any, **__: Any) -> Tensor:
                return plain(inner)(z, t - gap, t)

            return bare(kind, label_dim=0, dtype=torch.float32, model=call, do_scale_param=False, detach_jvp=False)

        r, t = (part[:, None, None, None] for part in times)
        made.sample_ts = lambda _: (t, r, r)
        return made(wrapped(net), x, teacher_model=wrapped(ema))[0].mean()

    return loss


def fastgen(folder: Path) -> TheirLoss:
    unused = ("omegaconf", *(f"fastgen.utils.{name}" for name in ("basic_utils", "global_vars", "logging_utils", "registry")))
    with mock.patch.dict(sys.modules, {"fastgen.methods.CMModel": object}):  # what holds networks and optimisers
        kind = load(folder, "fastgen.methods.consistency_model.mean_flow", unused).MeanFlowModel
    settings = {"use_jvp_finite_diff": False, "norm_method": "poly_1.0", "norm_const": 0.01, "loss_type": "l2", "tangent_warmup_steps": 0}

    def loss(net: nn.Module, ema: nn.Module, x: Tensor, times: Times) -> Tensor:
        def call(z: Tensor, t: Tensor, r: Tensor, **_: Any) -> Tensor:
            return plain(net)(z, r, t)

        call.noise_scheduler = SimpleNamespace(  # type: ignore[attr-defined]
            forward_process=lambda x, e, t: torch.lerp(x, e, t[:, None, None, None]),
            flow_to_x0=lambda z, u, t: z - t[:, None, None, None] * u,
            min_t=0.0,
            max_t=1.0,
        )
        parts = {"_get_velocity": lambda x, e, *_, **__: (None, e - x), "device": x.device, "precision_amp_jvp": None}
        stand = type(
            "Stand", (), {name: getattr(kind, name) for name in ("_jvp", "_compute_weight", "_mf_pred_to_loss", "_compute_mf_loss")}
        )
        made = bare(stand, net=call, loss_config=SimpleNamespace(**settings), **parts)
        return made._compute_mf_loss(x, times[1], times[0], iteration=1)[0].mean()

    return loss


class Peer(NamedTuple):
    """What its checkout has, the commit it was written for, what of ours stands beside it, and what its gradient is compared with."""

    repository: str
    commit: str
    marker: str
    load: Callable[[Path], TheirLoss]
    recipe: Callable[[nn.Module], Recipe]
    twin: Callable[[Any], Recipe] | str
    share: float = SHARE
    extra: float = SHARE
    head: bool = False


def _meanflow(share: float) -> Callable[[nn.Module], Recipe]:
    return lambda ema: meanflow(diagonal_share=1 - share)


def _weighted(weight: Any) -> Callable[[Any], Recipe]:
    return lambda times: meanflow(times, 0.0, weight)


def _changed(times: Any) -> Recipe:
    return (dataclasses.replace(transition()[0], times=times, share=1.0),)


PEERS = {
    "py-meanflow": Peer(
        "Gsunshine/py-meanflow", "1f6d72d", "meanflow/models/meanflow.py", py_meanflow, _meanflow(SHARE), _weighted(adaptive(1.0, 1e-2))
    ),
    "zhuyu-cs": Peer("zhuyu-cs/MeanFlow", "04d183c", "loss.py", zhuyu, _meanflow(SHARE), _weighted(constant)),
    "FastGen": Peer(
        "NVlabs/FastGen",
        "34f30e8",
        "fastgen/methods/consistency_model/mean_flow.py",
        fastgen,
        _meanflow(SHARE),
        _weighted(adaptive(1.0, 1e-2)),
    ),
    "lucidrains": Peer(
        "lucidrains/rectified-flow-pytorch",
        "26fbed9",
        "rectified_flow_pytorch/mean_flow.py",
        lucidrains,
        _meanflow(1.0),
        _weighted(adaptive(1.0, 1e-2, "mean")),
        share=1.0,
        extra=1.0,
    ),
    "haidog-yaqub": Peer(
        "haidog-yaqub/MeanFlow",
        "97cc518",
        "meanflow.py",
        haidog,
        lambda ema: improved_meanflow(diagonal_share=0.0),
        "it reads its head at (r, t), ours at (t, t)",
        share=1.0,
        extra=1.0,
        head=True,
    ),
    "DMF": Peer(
        "kyungmnlee/dmf",
        "a6db0f6",
        "loss.py",
        dmf,
        lambda ema: decoupled_meanflow(weight=adaptive(1.0, 1e-2, "mean")),
        "its two passes draw a noise each",
        share=1.0,
        extra=4.0,
    ),
    "SoFlow": Peer(
        "zlab-princeton/SoFlow", "3b60d60", "models.py", soflow, lambda ema: solution_flow(), "it draws the noise of its two parts apart"
    ),
    "TiM": Peer("WZDTHU/TiM", "b431859", "tim/schedulers/transition.py", tim, lambda ema: transition(), _changed, share=0.5, extra=1.0),
    "TVM": Peer("lumalabs/tvm", "82e8e5d", "training/wrapper.py", tvm, terminal_velocity, "it computes in float32", share=1.0, extra=7.0),
}


def commit_of(folder: Path) -> str:
    if (folder / ".commit").is_file():
        return (folder / ".commit").read_text(encoding="utf-8").strip()
    if not (folder / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def opened(name: str, folder: Path) -> tuple[TheirLoss, str]:
    """The loss of a checkout and its commit; `LookupError` with one line where there is none."""
    peer, commit = PEERS[name], commit_of(folder)
    if not (folder / peer.marker).is_file():
        raise LookupError(f"{name}: {folder} (commit {commit or 'unknown'}) is no checkout of {peer.repository}, it has no {peer.marker}")
    if not commit.startswith(peer.commit):
        print(f"{name}: {folder} is at commit {commit or 'unknown'}, and the adapter was written for {peer.commit}: it runs all the same")
    try:
        return peer.load(folder), commit
    except ImportError as error:
        raise LookupError(f"{name}: left out, {error}; install it to measure this one") from None
    except (AttributeError, TypeError) as error:
        raise LookupError(f"{name}: commit {commit or 'unknown'} has no such loss as the adapter calls: {error}") from None


def pairs(x: Tensor, share: float) -> Times:
    """Sorted logit-normals; the last `share` of the rows has r < t."""
    pair = torch.sigmoid(torch.randn(2, len(x), dtype=x.dtype, device=x.device) - 0.4)
    r, t = pair.amin(0), pair.amax(0)
    return torch.where(torch.arange(len(x), device=x.device) < (1 - share) * len(x), t, r), t


def difference(peer: Peer, theirs: TheirLoss, bench: Bench) -> float | str:
    """Relative difference of the gradients in float64, on the same times and noise, after the best factor; or why there is none."""
    if isinstance(peer.twin, str):
        return peer.twin
    torch.set_default_dtype(torch.float64)
    try:
        net, ema = copy.deepcopy(bench.net).double(), copy.deepcopy(bench.ema).double()
        x = bench.x[:8].double()
        torch.manual_seed(0)
        times = pairs(x, peer.share)
        torch.manual_seed(1)
        a = _gradient(net, theirs(net, ema, x, times))
        torch.manual_seed(1)
        e = torch.randn_like(x)
        b = _gradient(net, ms.Loss(peer.twin(lambda shape, g: times))(net, x, noise=e, progress=0.5).loss)
    finally:
        torch.set_default_dtype(torch.float32)
    return float((a - b * (a @ b) / (b @ b)).norm() / a.norm())


def _gradient(net: nn.Module, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(net.parameters(), found, strict=True)])


def compared(peer: Peer, theirs: TheirLoss, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Both losses in turn with flow matching on one network: ratios, allocations, and the difference of the gradients."""
    if peer.head:
        case = case._replace(network=functools.partial(case.network, head=True))
    bench = Bench(case, torch.device("cpu"), autocast=False)

    def make(net: nn.Module, ema: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda x: theirs(net, ema, x, pairs(x, peer.share))

    table = {
        "flow matching": Variant(flow_matching, 0),
        "theirs": Variant(make, peer.extra),
        "ours": Variant(ours(peer.recipe), peer.extra),
    }
    apart = difference(peer, theirs, bench)
    found = measure(bench, table, "eager", rounds, seconds, pairs=[("theirs", "ours")])
    return {**found, "share": peer.share, "gradients": apart}


def report(rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{'':14} {'theirs / FM':>12} {'theirs / ours':>14} {'ours / FM':>10} {'MB: FM, theirs, ours':>22}  gradients")
    for name, row in rows.items():
        base, theirs, own = (row["rows"][key] for key in ("flow matching", "theirs", "ours"))
        memory = ", ".join(f"{part['peak_mb']:.0f}" for part in (base, theirs, own))
        apart = row["gradients"] if isinstance(row["gradients"], str) else f"{row['gradients']:.1e}"
        numbers = f"{theirs['ratio']:12.2f} {row['pairs']['theirs / ours']:14.2f} {own['ratio']:10.2f}"
        print(f"{name:14} {numbers} {memory:>22}  {apart}", flush=True)


def arguments() -> argparse.Namespace:
    parser = options.parser(__doc__)
    known = "; ".join(f"{name} ({peer.repository})" for name, peer in PEERS.items())
    parser.add_argument("--checkout", nargs="+", required=True, metavar="NAME=FOLDER", help=f"which and where: {known}")
    parser.add_argument("--network", choices=list(CASES), default="small", help="default: small")
    options.rounds(parser, 15, "of the three in turn")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of one peer's rounds, three at least (default: no limit)")
    parser.add_argument("--note", help="a sentence for the record, such as that the machine was busy")
    options.file(parser, "add the numbers to this file")
    asked = options.read(parser, "rounds")
    for entry in asked.checkout:
        name, given, folder = entry.partition("=")
        if name not in PEERS or not given:
            parser.error(f"--checkout: {entry!r} is no NAME=FOLDER with a name of {', '.join(PEERS)}")
        if not Path(folder).is_dir():
            parser.error(f"--checkout: {name}: the folder {folder} does not exist")
    asked.kept = options.kept(parser, asked.json, "peers")
    return asked


def main() -> None:
    asked = arguments()
    torch.set_num_threads(1)
    machine, rows = environment(), {}
    kept = asked.kept
    for entry in asked.checkout:
        name, _, folder = entry.partition("=")
        try:
            theirs, commit = opened(name, Path(folder).resolve())
            rows[name] = {"repository": PEERS[name].repository, "commit": commit}
            rows[name] |= compared(PEERS[name], theirs, CASES[asked.network], asked.rounds, asked.seconds)
        except LookupError as error:
            print(error, flush=True)
            continue
        except Exception as error:  # another commit's loss, called as it is not meant: the others run
            print(f"{name}: failed with {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", flush=True)
            del rows[name]
            continue
        report({name: rows[name]})
        if asked.json:
            record = {"environment": machine, "network": asked.network, "note": asked.note, "peers": kept | rows}
            options.write(asked.json, record)
    if not rows:
        sys.exit("no checkout could be measured")
    report(rows)


if __name__ == "__main__":
    main()
