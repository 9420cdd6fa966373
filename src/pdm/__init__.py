"""Parallel diffusion models of operator and image for blind inverse problems (Chung et al., CVPR 2023).

One reverse diffusion runs for the image and one for each parameter of the operator, in parallel, and the
measurement couples them: Algorithm 1 of arXiv 2211.10656. Start with `pdm.sampler`.
"""

from pdm import openmp  # first: before torch loads OpenMP
from pdm.guidance import DPS
from pdm.models import load_prior
from pdm.operators import blur, turbulence, warp
from pdm.sampler import Component, State, final, sample
from pdm.schedule import Schedule

__version__ = "0.1.0"
__all__ = [
    "DPS",
    "Component",
    "Schedule",
    "State",
    "__version__",
    "blur",
    "final",
    "load_prior",
    "openmp",
    "sample",
    "turbulence",
    "warp",
]
