"""Train a committed prior, `python -m pdm.train image`, or measure its errors, `python -m pdm.train spectra image`.

It writes weights and card to data/priors; killed, it goes on from the last checkpoint when it is called again.
`--go-on` begins with the weights that are committed, for more images.
"""

import argparse
import sys
from pathlib import Path

from pdm.paths import TRAINED
from pdm.train.recipes import CHECKPOINTS, RECIPES, train_prior
from pdm.train.spectra import measure_spectra


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 where weights or data are missing or of something else."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["spectra"]:
        return _spectra(arguments[1:])
    about = "Train one committed prior to the end of its recipe, then write weights and card."
    parser = argparse.ArgumentParser(prog="python -m pdm.train", description=about)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--images", type=int, help="images to see in all (default: the recipe's)")
    parser.add_argument("--rate", type=float, help="learning rate (default: the recipe's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--go-on", action="store_true", help="begin with the weights in the folder")
    parser.add_argument("--folder", type=Path, default=TRAINED, help="where weights and card go")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS)
    chosen = parser.parse_args(arguments)
    try:
        for state in train_prior(**vars(chosen)):
            seen, loss, test_loss = state["curve"][-1]
            print(f"{seen:>9} images  loss {loss:.4f}  held out {test_loss:.4f}  {state['seconds']:.0f} s", flush=True)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.folder / f"{chosen.name}.safetensors")
    return 0


def _spectra(arguments: list[str]) -> int:
    about = "Measure the error spectra of a committed prior on training data, and write them beside its card."
    parser = argparse.ArgumentParser(prog="python -m pdm.train spectra", description=about)
    parser.add_argument("name", choices=("image", "kernel"))
    parser.add_argument("--samples", type=int, default=256, help="of each class (default: 256)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=TRAINED, help="where weights and card are")
    chosen = parser.parse_args(arguments)
    try:
        for line in measure_spectra(**vars(chosen)):
            print(line, flush=True)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(chosen.folder / f"{chosen.name}.errors.safetensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
