"""Restoration learned from pairs: one network from a degraded image to the image, whatever the degradation was.

Two objectives for the same network. `Regression` is the plain one, and stands for networks such as MPRNet (S. W. Zamir
et al., "Multi-Stage Progressive Image Restoration", CVPR 2021), whose Charbonnier penalty it has. `Adversarial` adds a
perceptual and an adversarial term, and stands for DeblurGAN-v2 (O. Kupyn et al., "DeblurGAN-v2: Deblurring
(Orders-of-Magnitude) Faster and Better", ICCV 2019), whose loss and weights it has, with VGG16 in place of VGG19 and
one critic of patches in place of two. Neither is either paper's network: ours is the U-Net of the priors.
"""

import torch
from torch import Tensor

from pdm import checks
from pdm.models import NetworkPrior


@torch.no_grad()
def restore(restorer: NetworkPrior, measurement: Tensor) -> Tensor:
    """What the network makes of measurements, B C H W in [-1, 1]: it predicts what is to be added to them.

    `restorer` is what `models.load_prior` makes of its weights, which are no prior's: for the precision it computes in.
    Raises: ValueError for a measurement of another shape, far outside [-1, 1] or not finite.
    """
    checks.images("measurement", measurement, reach=2.0)
    return measurement + restorer.predict(measurement, 0)[0]
