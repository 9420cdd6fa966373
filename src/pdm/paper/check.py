"""Are the committed records still what the code gives? Two images of each are restored again: `make check-records`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Generator

from pdm import data
from pdm.data import gaussian_kernels, motion_kernels, tilt_fields
from pdm.models import prior_card
from pdm.paper import departures, scale_space
from pdm.paths import results_dir
from pdm.study import cache, deblurring, few_steps, restarts, runner, turbulence
from pdm.study.method import Method
from pdm.study.problem import Cases, measured

MODULES = (deblurring, restarts, few_steps, turbulence, scale_space, departures)
CHEAP = ("blurred", "wiener", "supervised")  # a second an image at most
EXACT, CHAOTIC = 0.2, 3.0  # dB: other batches and machines round otherwise; a sampler's steps make much of that


def check(path: Path, cheap: bool = False, count: int = 2) -> dict | None:
    """Restore the first `count` images of a record again: a row with both mean PSNRs and whether they agree.

    None where only `cheap` methods are wanted and this one is not, where no method made the record, or where it is a
    public benchmark's case. `agrees` is None where its images or its operator cannot be made again here.
    Raises: KeyError for an id that no method has.
    """
    kept = json.loads(path.read_text(encoding="utf-8"))
    key, rows = kept["key"], kept["result"].get("rows") if isinstance(kept["result"], dict) else None
    if "inputs" not in key or "case" in key or key["id"] == "trajectory" or (cheap and key["id"] not in CHEAP):
        return None
    method = method_of(key)
    row = {"record": path.stem, "id": key["id"], "agrees": None}
    cases = next((c for c in candidates(key["inputs"]) if cache.same(method.key(c), key)), None)
    if cases is None:
        return row
    again = runner.restore(method, cases[:count])["rows"]
    then, now = (sum(r["psnr"] for r in part) / count for part in (rows[:count], again))
    bound = EXACT if key["id"] in CHEAP else CHAOTIC
    return row | {"then": then, "now": now, "agrees": abs(then - now) <= bound}


def method_of(key: dict) -> Method:
    """The method of a record's key, with the weights that have its SHA-256. Raises: KeyError for an unknown id."""
    functions = {getattr(f, "id", None): f for module in MODULES for f in vars(module).values()}
    if key["id"] not in functions:
        raise KeyError(f"no method has the id {key['id']!r}")
    weights = {}
    if "network" in key["weights"]:
        names = [f"{task}_{kind}" for task in ("deblur", "turbulence") for kind in ("regression", "adversarial")]
        by_hash = {prior_card(name)["sha256"]: name for name in names}
        weights = {"network": by_hash[key["weights"]["network"][0]]}
    return Method(key["id"], functions[key["id"]], key["settings"], key["label"], weights)


def candidates(inputs: dict) -> Iterator[Cases]:
    """What the notebooks make of a record's images: with every operator that they use."""
    names, seeds, made = inputs["names"], inputs["seeds"], {k: inputs[k] for k in ("sigma", "boundary")}
    image = images(names)
    if image is None:
        return
    first = seeds[0] - seeds[0] % 1000  # notebook 09 draws its noise again, for the operator of seeds from 0 on
    for start in dict.fromkeys((seeds[0], seeds[0] - first)):
        draws = [Generator().manual_seed(start + i) for i in range(len(names))]
        if "tilt" in inputs:
            frames = [torch.cat([tilt_fields(1, 64, draw) for draw in draws]) for _ in range(4)]
            for count in (1, 2, 4):
                for std in (0.5, 0.75, 1.0):
                    kernel = gaussian_kernels(len(names), 32, std)
                    yield measured(image, kernel, seeds, names, torch.cat(frames[:count], dim=1), **made)
            return
        motion = torch.cat([motion_kernels(1, 32, 0.5, draw) for draw in draws])
        for kernel in (motion, motion.flip(-2, -1), gaussian_kernels(len(names), 32, 1.5)):
            yield measured(image, kernel, seeds, names, **made)


def images(names: list[str]) -> torch.Tensor | None:
    """Test images by name, N 3 64 64; None for names of no set, or of one that is not on this machine."""
    for name in ("photos", "faces", "cats"):
        try:
            found = data.load(name, "test")
        except data.NotAtHand:
            continue
        place = {n: i for i, n in enumerate(found.names)}
        if set(names) <= set(place):
            return found.images[[place[n] for n in names]]
    return None


def main(arguments: list[str] | None = None) -> int:
    """Check records, print a line each, and return 1 if one does not agree."""
    parser = argparse.ArgumentParser(prog="python -m pdm.paper.check", description=main.__doc__)
    parser.add_argument("--cheap", action="store_true", help=f"only {', '.join(CHEAP)}: a minute in all")
    parser.add_argument("--folder", type=Path, help="default: the records of results/bench")
    chosen = parser.parse_args(arguments)
    bad = 0
    for path in sorted((chosen.folder or results_dir("bench") / "records").glob("*.json")):
        if (row := check(path, chosen.cheap)) is None:
            continue
        said = {True: "agrees", False: "DIFFERS", None: "not made again here"}[row["agrees"]]
        psnr = f"  {row['then']:.2f} then, {row['now']:.2f} now" if "now" in row else ""
        print(f"{row['record']}  {said}{psnr}", flush=True)
        bad += row["agrees"] is False
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
