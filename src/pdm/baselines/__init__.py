"""Methods that BlindDPS is compared with, each from its paper."""
