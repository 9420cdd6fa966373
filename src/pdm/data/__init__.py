"""Images, random kernels, tilt fields and noise: what problems are made of."""

from pdm.data.images import ImageSet, NotAtHand, area_average, folder, photograph, picture, random_crops
from pdm.data.kernels import gaussian_kernels, motion_kernels, random_kernels
from pdm.data.noise import SIGMA, add_noise, noisy
from pdm.data.splits import (
    SPLITS,
    at_hand,
    cats,
    digits,
    faces,
    fetch_faces,
    image_set,
    load,
    photos,
    pictures_of,
    quickstart_images,
    test_set,
    training_pictures,
)
from pdm.data.tilts import TILT_BOUND, tilt_fields

__all__ = [
    "SIGMA",
    "SPLITS",
    "TILT_BOUND",
    "ImageSet",
    "NotAtHand",
    "add_noise",
    "area_average",
    "at_hand",
    "cats",
    "digits",
    "faces",
    "fetch_faces",
    "folder",
    "gaussian_kernels",
    "image_set",
    "load",
    "motion_kernels",
    "noisy",
    "photograph",
    "photos",
    "picture",
    "pictures_of",
    "quickstart_images",
    "random_crops",
    "random_kernels",
    "test_set",
    "tilt_fields",
    "training_pictures",
]
