"""Photos as files: what is read, and that it is there again when it is written."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from pdm.data.photo_files import Photo, read_photo, write_photo, writes

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def as_bytes(image):
    return ((image + 1) * 127.5).round().byte()


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp", "ppm", "jpg"])
def test_colours_are_read_and_written(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    assert photo.image.shape == (3, 12, 17) and photo.alpha is None and photo.bits == 8
    assert as_bytes(photo.image).permute(1, 2, 0).numpy().tolist() == PIXELS.tolist()
    write_photo(tmp_path / f"out.{suffix}", photo.image, photo)
    again = read_photo(tmp_path / f"out.{suffix}").image
    if suffix in ("png", "tif", "bmp", "ppm"):
        torch.testing.assert_close(again, photo.image)
    assert again.shape == photo.image.shape


def test_grey_of_16_bits_keeps_them(tmp_path):
    deep = np.random.default_rng(1).integers(0, 65536, (9, 8)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    assert photo.bits == 16 and photo.image.shape == (1, 9, 8)
    for name in ("out.png", "out.tiff"):
        write_photo(tmp_path / name, photo.image, photo)
        assert np.array(Image.open(tmp_path / name)).tolist() == deep.tolist()
    write_photo(tmp_path / "out.jpg", photo.image, photo)
    assert read_photo(tmp_path / "out.jpg").bits == 8


def test_profile_tags_turn_and_transparency_are_kept(tmp_path):
    exif = Image.Exif()
    exif[274], exif[271] = 6, "a maker"  # turned by a quarter
    Image.fromarray(PIXELS).save(tmp_path / "in.png", exif=exif, icc_profile=ICC)
    photo = read_photo(tmp_path / "in.png")
    assert photo.image.shape == (3, 17, 12) and photo.icc == ICC
    assert as_bytes(photo.image).permute(1, 2, 0).numpy().tolist() == np.rot90(PIXELS, -1).tolist()
    write_photo(tmp_path / "out.jpg", photo.image, photo)
    with Image.open(tmp_path / "out.jpg") as written:  # upright, and not turned again
        assert written.size == (12, 17) and written.info["icc_profile"] == ICC
        assert written.getexif()[271] == "a maker" and written.getexif().get(274, 1) == 1
    clear = np.dstack([PIXELS, PIXELS[..., 0]])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    photo = read_photo(tmp_path / "clear.png")
    assert photo.alpha.numpy().tolist() == PIXELS[..., 0].tolist()
    write_photo(tmp_path / "out.png", photo.image, photo)
    assert np.array(Image.open(tmp_path / "out.png")).tolist() == clear.tolist()
    with pytest.raises(ValueError, match="JPEG holds no transparency"):
        write_photo(tmp_path / "clear.jpg", photo.image, photo)
    assert not (tmp_path / "clear.jpg").exists()


@pytest.mark.parametrize("mode, channels", [("L", 1), ("1", 1), ("P", 3), ("CMYK", 3), ("YCbCr", 3), ("LA", 1)])
def test_other_modes(tmp_path, mode, channels):
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / f"in.{suffix}")
    photo = read_photo(tmp_path / f"in.{suffix}")
    assert photo.image.shape == (channels, 12, 17) and (photo.alpha is not None) == (mode == "LA")
    assert photo.image.min() >= -1 and photo.image.max() <= 1


def test_what_cannot_be_read_or_written_is_refused_in_words(tmp_path):
    (tmp_path / "text.jpg").write_text("no photo")
    Image.fromarray(PIXELS).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:300])
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "fractions.tif")
    for name in ("text.jpg", "cut.jpg", "missing.png", ".", "fractions.tif"):
        with pytest.raises(ValueError, match=r"no photo that can be read|fractions"):
            read_photo(tmp_path / name)
    for name in ("out", "out.txt", "out.docx"):
        with pytest.raises(ValueError, match="wanted a suffix"):
            writes(tmp_path / name)
    image = torch.zeros(3, 4, 5)
    for wrong in (image[0], torch.zeros(2, 4, 5), torch.zeros(3, 4, 6)):
        with pytest.raises(ValueError, match="image"):
            write_photo(tmp_path / "out.png", wrong, Photo(image))
    assert not (tmp_path / "out.png").exists()
