"""The examples of docs/extending.md run as they stand, in a folder of the reader's own."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = {s.split("\n", 1)[0]: re.findall(r"```python\n(.*?)```", s, re.S) for s in TEXT.split("\n## ")[1:]}


def test_sections():
    wanted = ["A new operator", "A new guidance", "A prior of another size", "A 1-D signal"]
    assert list(SECTIONS) == wanted and all(SECTIONS.values())


def test_lines_are_short():
    assert max(map(len, TEXT.splitlines())) <= 100


@pytest.mark.parametrize("heading", SECTIONS)
def test_example(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in SECTIONS[heading]:
        assert "\nassert " in block
        exec(compile(block, heading, "exec"), {"__name__": "example"})
