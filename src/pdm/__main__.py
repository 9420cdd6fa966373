"""Restore blurred photos: `python -m pdm restore PHOTO... -o OUT`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from pdm import photo
from pdm.data.photo_files import Photo, read_photo, write_photo, writes
from pdm.photo_kernels import SEARCH, Priors

ABOUT = """Restore blurred photos, and find what blurred them.

PHOTO is a file of any format that Pillow reads, or a folder of such files. What is written has the photo's size, colour
profile, tags and transparency. Ctrl-C keeps what is finished. The exit status is 0, or 1 where a photo could not be
read, or 2 for a wrong argument."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 where a photo failed, 2 for wrong arguments, 130 if cut."""
    parser = argparse.ArgumentParser(prog="python -m pdm")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("restore", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    command.add_argument("-o", "--out", type=Path, help="a file for one photo, else a folder (default: NAME_sharp.EXT)")
    command.add_argument("--kernel", type=Path, help="where the kernel goes, as a picture: a file, or a folder")
    command.add_argument("--sigma", type=float, help="the noise, of values from 0 to 255 (default: estimated)")
    command.add_argument("--linear", action="store_true", help="the blur is of light, not of the file's values")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--go-on", action="store_true", help="leave photos alone whose result is there")
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    chosen = parser.parse_args(arguments)
    try:
        jobs = list(_places(chosen.photos, chosen.out, chosen.kernel))
    except ValueError as error:
        parser.error(str(error))
    try:
        return _restored(jobs, chosen)
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept", file=sys.stderr)
        return 130


def _places(photos: Sequence[Path], out: Path | None, kernel: Path | None) -> Iterator[tuple[Path, Path, Path | None]]:
    """Each photo with the file that it is restored to, and that of its kernel or None.

    Raises: ValueError for a photo that is missing, an empty folder, a file for several photos, a suffix that pictures
    are not written by, or a photo that would be written over.
    """
    files, several = [], len(photos) > 1
    for path in photos:
        if path.is_dir():
            several, inside = True, sorted(p for p in path.iterdir() if _is_photo(p))
            if not inside:
                raise ValueError(f"{path} holds no photos; wanted files of a format that Pillow reads")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"there is no photo {path}")
    taken: set[Path] = set()
    for path in files:
        target = path.with_name(f"{path.stem}_sharp{path.suffix}") if out is None else _place(out, path.name, several)
        if (out is None or several) and not _can_write(target):
            target = target.with_suffix(".png")
        writes(target)
        beside = None if kernel is None else _place(kernel, f"{path.stem}_kernel.png", several)
        if beside is not None:
            writes(beside)
        new = {p.absolute() for p in (target, beside) if p is not None}
        if new & (taken | {p.absolute() for p in files}) or target == beside:
            raise ValueError(f"{target} or its kernel would be written over another file of this run")
        taken |= new
        yield path, target, beside


def _restored(jobs: list[tuple[Path, Path, Path | None]], chosen: argparse.Namespace) -> int:
    priors, failed = None, 0
    for path, target, beside in jobs:
        if chosen.go_on and target.is_file():
            print(f"{target} is there")
            continue
        try:
            held = read_photo(path)
            writes(target, held)
            priors = priors or Priors.load()
            sigma = None if chosen.sigma is None else chosen.sigma * 2 / 255
            with tqdm(total=SEARCH.states + 12, desc=path.name, disable=chosen.quiet, leave=False) as bar:

                def tell(state, bar=bar):
                    rms = state.loss.min().item() / state.theta["image"][0].numel() ** 0.5
                    bar.set_postfix_str(f"residual {127.5 * rms:.1f} of 255"), bar.update()

                given = {"sigma": sigma, "linear": chosen.linear, "seed": chosen.seed, "search": SEARCH}
                found = photo.restore(held.image, priors, **given, progress=tell)
            write_photo(target, found.image, held)
            if beside is not None:
                write_photo(beside, 2 * found.kernel / found.kernel.max() - 1, Photo(found.kernel))
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            failed += 1
            continue
        for warning in found.warnings:
            print(f"{path}: {warning}", file=sys.stderr)
        print(f"{target}: noise {found.sigma * 127.5:.1f} of 255, residual {found.residual:.2f} times the noise")
    return 1 if failed else 0


def _place(out: Path, name: str, several: bool) -> Path:
    return out / name if several or out.is_dir() else out


def _is_photo(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in Image.registered_extensions()


def _can_write(path: Path) -> bool:
    return Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE


if __name__ == "__main__":
    sys.exit(main())
