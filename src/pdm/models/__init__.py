"""Priors: networks with their committed weights, and priors known exactly."""

from pdm.models.analytic import EmpiricalPrior, FlatPrior, GaussianMixture
from pdm.models.any_size import AnySize
from pdm.models.conditional import ConditionalPrior, blur_features, power_spectrum
from pdm.models.errors import Errors
from pdm.models.files import (
    best_device,
    best_precision,
    load_adm,
    load_prior,
    precision_for,
    prior_card,
    read_weights,
    save_prior,
)
from pdm.models.prior import NetworkPrior, Prediction, Prior, Velocity
from pdm.models.unet import UNet, UNetConfig

__all__ = [
    "AnySize",
    "ConditionalPrior",
    "EmpiricalPrior",
    "Errors",
    "FlatPrior",
    "GaussianMixture",
    "NetworkPrior",
    "Prediction",
    "Prior",
    "UNet",
    "UNetConfig",
    "Velocity",
    "best_device",
    "best_precision",
    "blur_features",
    "load_adm",
    "load_prior",
    "power_spectrum",
    "precision_for",
    "prior_card",
    "read_weights",
    "save_prior",
]
