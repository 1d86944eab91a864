"""Fields `u(z, r, t, y)`: exact ones, small networks, and adapters for any other network. Knows no objectives."""

from meanstep.fields.adapt import Adapted, DataPrediction, Decoupled, Scaled, as_field
from meanstep.fields.analytic import Averaged, Gaussian, Mixture, residual_noise
from meanstep.fields.dit import DiT
from meanstep.fields.gap import Gapped, with_gap
from meanstep.fields.mlp import MLP
from meanstep.fields.planar import PLANAR, Law, gaussian_mixture
from meanstep.fields.unet import UNet

__all__ = [
    "MLP",
    "PLANAR",
    "Adapted",
    "Averaged",
    "DataPrediction",
    "Decoupled",
    "DiT",
    "Gapped",
    "Gaussian",
    "Law",
    "Mixture",
    "Scaled",
    "UNet",
    "as_field",
    "gaussian_mixture",
    "residual_noise",
    "with_gap",
]
