"""docs/house.md is the map of the package: every file has its line, and no line is of a file that is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "pdm"
CORE = ("schedule", "sampler", "guidance", "operators", "constraints")


def test_every_file_has_its_line_on_the_map():
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", (ROOT / "docs" / "house.md").read_text(encoding="utf-8"), re.M)
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert len(listed) == len(set(listed)) and set(listed) == {path.replace("\\", "/") for path in files}


def test_the_core_is_read_in_an_hour():
    lines = sum(len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in CORE)
    assert lines <= 700, f"the core has {lines} lines"
