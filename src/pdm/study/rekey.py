"""Give the records of results/bench the keys and names that `cache` and `method` have now: `python -m pdm.study.rekey`.

Every record holds the key that it was written under, so that the new key follows from the old one.
"""

import json

from pdm import data
from pdm.data import gaussian_kernels
from pdm.paths import results_dir
from pdm.schedule import Schedule
from pdm.study import cache

IDS = {
    "restoration.wiener_known_kernel": "wiener",
    "restoration.pan_blind": "pan",
    "restoration.self_deblur_blind": "self_deblur",
    "turbulence.blind": "turbulence",
    "turbulence.blur_only": "turbulence_as_blur",
    "scale_space.restore": "scale_course",
}
FEW = {"blurred": 0, "wiener": 0, "pan": 0, "supervised": 1}  # evaluations of methods that take no steps


def rekeyed(old: dict) -> dict:
    """The key of today for a record's old one."""
    if "function" not in old:  # of figures that no method made
        return {"id": old["name"], "version": 1} | {name: v for name, v in old.items() if name != "name"}
    settings, function = dict(old["settings"]), old["function"].removeprefix("pdm.")
    label, whole = settings.pop("label", None), settings.pop("whole_batch", False)
    id = "blind_dps_whole_batch" if whole else IDS.get(function, function.split(".")[1])
    weights = {name: old[name] for name in ("image", "kernel", "tilt") if name in old}
    if id == "supervised":
        weights = {"network": old[settings.pop("name")]}
    sigma, boundary = old.get("made", (0.02, "reflect"))
    inputs = {"measurement": old["measurement"], "image": old["truth"], "kernel": old["kernels"]}
    inputs |= {"tilt": old["tilts"]} if "tilts" in old else {}
    inputs |= {"sigma": sigma, "boundary": boundary, "seeds": old["seeds"], "names": old["names"]}
    return {"id": id, "version": 1, "label": label, "settings": settings, "weights": weights, "inputs": inputs}


def evaluations(key: dict) -> tuple[int, int]:
    """How often a method's networks were evaluated for a sample, and differentiated."""
    settings = key["settings"]
    steps = settings.get("steps", 2500 if key["id"] == "self_deblur" else 1000)
    if key["id"] in FEW:
        return FEW[key["id"]], 0
    if settings.get("course") == "late":
        steps = sum(t <= 400 for t, _ in Schedule.linear().pairs(steps))
    steps *= settings.get("chains", 4) if key["id"] == "best_of" else 1
    return steps, 0 if key["id"] == "ilvr" else steps


def row(old: dict, key: dict) -> dict:
    """A row of today: what the method took, and nothing said of a residual that there is not."""
    new = {name: value for name, value in old.items() if name != "steps"}
    if new["psnr"] == new["psnr"] and new["residual_ratio"] != new["residual_ratio"]:
        new["diverged"] = None
    return new | dict(zip(("forward", "backward"), evaluations(key), strict=True))


def title(key: dict, sets: dict[str, set[str]]) -> str:
    """Data set and degradation of a record."""
    if "inputs" not in key:
        return "-".join(key[name] for name in ("domain", "split") if name in key)
    inputs = key["inputs"]
    names, count = set(inputs["names"]), len(inputs["names"])
    found = next((name for name, members in sets.items() if names <= members), "other")
    if "tilt" in inputs:
        return f"{found}-turbulence"
    round_ones = {cache.digest(gaussian_kernels(count, 32, std)) for std in (1.5, 0.5)}
    return f"{found}-{'gaussian' if inputs['kernel'] in round_ones else 'motion'}"


def main() -> None:
    """Write every record under its new key, and remove it under the old one."""
    folder = results_dir("bench") / "records"
    sets = {name: set(data.splits._names(name, "test")) for name in ("photos", "faces", "cats")}
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        key, result = rekeyed(kept["key"]), kept["result"]
        if "settings" in key:
            result = result | {"rows": [row(old, key) for old in result["rows"]]}
        path.unlink()
        cache.write_record(folder, key, result, title(key, sets))


if __name__ == "__main__":
    main()
