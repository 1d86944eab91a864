"""Configurations to start from, and what each is for; docs/training.md holds what was measured of them."""

from dataclasses import dataclass, replace

from meanstep.program.runs.config import AveragesConfig, Config, DataConfig, NetworkConfig, OptimiserConfig, RunConfig
from meanstep.program.runs.method import MethodConfig


@dataclass(frozen=True)
class Preset:
    """A configuration, and one line for the list."""

    about: str
    config: Config


UNIFORM = {"times": "uniform", "diagonal_share": 0.5}
"""Ours: uniform times train the step from t = 1 to 0, which is the one that sampling takes; MeanFlow's logit-normal ones hardly do."""

IMAGENET = Config(
    DataConfig("imagenet256", flips=True),
    NetworkConfig(options={"model": "B/4"}),
    MethodConfig("meanflow", dropout_rows="instant", omega=1.0, kappa=0.5),
    OptimiserConfig(rate=1e-4, warmup=0, clip=0.0),
    AveragesConfig((0.9999,)),
    RunConfig(samples=307_200_000, batch=1024, compile=True, extractor="inception", save_every=5_120_000, evaluate_every=5_120_000),
)

PRESETS: dict[str, Preset] = {
    "digits": Preset(
        "scikit-learn's 8 x 8 digits, three minutes on one core or two; needs no download",
        Config(
            DataConfig("digits"),
            NetworkConfig(options={"patch": 2, "width": 64, "depth": 4, "heads": 4}),
            MethodConfig("meanflow", dict(UNIFORM)),
            OptimiserConfig(rate=2e-3, warmup=6_400, schedule="cosine"),
            AveragesConfig((0.998,)),
            RunConfig(samples=200_000, batch=128, sample_every=50_000, evaluate_every=50_000, save_every=50_000),
        ),
    ),
    "mnist-dit": Preset(
        "MNIST at 28 x 28 from mnist.npz (--data.source), a small DiT on two cores",
        Config(
            DataConfig("mnist.npz"),
            NetworkConfig(options={"patch": 4, "width": 128, "depth": 4, "heads": 4}),
            MethodConfig("meanflow", dict(UNIFORM)),
            OptimiserConfig(rate=1e-3, warmup=10_000, schedule="cosine"),
            AveragesConfig((0.999,)),
            RunConfig(samples=2_000_000, batch=128),
        ),
    ),
    "cifar10-dit": Preset(
        "CIFAR-10 at 32 x 32 in pixels, DiT of 384, for one GPU",
        Config(
            DataConfig("cifar10.npz", flips=True),
            NetworkConfig(options={"patch": 2, "width": 384, "depth": 12, "heads": 6, "qk_norm": True}),
            MethodConfig("meanflow", dict(UNIFORM)),
            OptimiserConfig(rate=2e-4, warmup=500_000),
            AveragesConfig((0.9999,), (0.05, 0.10)),
            RunConfig(samples=100_000_000, batch=512, precision="bf16", compile=True, extractor="inception", evaluate_count=10_000),
        ),
    ),
    "cifar10-dit-discrete": Preset(
        "The same by the discrete curriculum, 2604.08837, its stages ours; from a flow-matching run of it (--network.start RUN)",
        Config(
            DataConfig("cifar10.npz", flips=True),
            NetworkConfig(options={"patch": 2, "width": 384, "depth": 12, "heads": 6, "qk_norm": True}),
            MethodConfig("discrete_meanflow", {"times": "uniform"}),
            OptimiserConfig(rate=2e-4, warmup=500_000),
            AveragesConfig((0.9999,), (0.05, 0.10)),
            RunConfig(samples=100_000_000, batch=512, precision="bf16", extractor="inception", evaluate_count=10_000),
        ),
    ),
    "latents-dit-s4": Preset(
        "Photographs at 256 px as TAESD latents (meanstep cache ... --autoencoder taesd:FILE), DiT-S/4, for one GPU",
        Config(
            DataConfig("latents", flips=True),
            NetworkConfig(options={"model": "S/4"}),
            MethodConfig("meanflow", dict(UNIFORM)),
            OptimiserConfig(rate=2e-4, warmup=100_000),
            AveragesConfig((0.9999,), (0.05, 0.10)),
            RunConfig(samples=20_000_000, batch=256, precision="bf16", compile=True),
        ),
    ),
    "imagenet256-dit-b4": Preset(
        "MeanFlow's DiT-B/4 on ImageNet-256 latents (kl:..., cached with --no-normalise), as published; eight GPUs",
        IMAGENET,
    ),
    "imagenet256-dit-b4-ema": Preset(
        "The same with the paper's EMA tangent and anchor, 2605.09235 at beta = 1; the authors' run has p = 0 beside",
        replace(
            IMAGENET,
            method=MethodConfig(
                "coefficient", {"beta": 1.0, "anchor": 0.1, "delta": [0.0, 0.001]}, proxy_decay=0.9999, omega=1.0, kappa=0.5
            ),
        ),
    ),
}
DEFAULT = "digits"
