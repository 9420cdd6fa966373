"""Parallel diffusion models of operator and image for blind inverse problems (Chung et al., CVPR 2023).

One reverse diffusion runs for the image and one for each parameter of the operator, in parallel, and the
measurement couples them: Algorithm 1 of arXiv 2211.10656. Start with `pdm.sampler`.
"""

__version__ = "0.1.0"
