"""What every committed notebook keeps to. Each check is tried on a made-up notebook that breaks it."""

import ast
import base64
import copy
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
ROOTS = "tmp|home|root|work|Users|mnt|opt|var|private"
MACHINE_PATH = re.compile(rf"(?<![\w.])/(?:{ROOTS})/[\w.]|\b[A-Za-z]:\\Users\\")
MAX_LINES = 20
MAX_IMPORTS = 30  # of the first cell
MAX_IMAGE = 300_000  # bytes


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tree(cell):
    return ast.parse(TransformerManager().transform_cell(cell["source"]))


def strings(value):
    """Every text in a cell, an output or a part of one, without images."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not key.startswith("image/") or key == "image/svg+xml":
                yield from strings(item)


def is_valid(notebook):
    nbformat.validate(copy.deepcopy(notebook))  # raises ValidationError


def has_one_parameters_cell(notebook):
    cells = [c for c in code_cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assert len(cells) == 1, f"{len(cells)} code cells are tagged 'parameters', wanted one"
    names = {n.id for n in ast.walk(tree(cells[0])) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    assert {"SCALE", "SEED"} <= names, f"the parameters cell assigns {sorted(names)}, wanted SCALE and SEED"
    default = 'SCALE = os.environ.get("SCALE", "pocket")'
    assert default in cells[0]["source"], f"the parameters cell lacks {default}"


def has_no_error_output(notebook):
    kinds = [output["output_type"] for cell in code_cells(notebook) for output in cell["outputs"]]
    assert "error" not in kinds, "an output is an error"


def has_no_machine_path(notebook):
    for cell in notebook["cells"]:
        for text in strings([cell["source"], cell.get("outputs", []), cell.get("attachments", {})]):
            found = MACHINE_PATH.search(text)
            assert not found, f"a path of one machine: {text[found.start() :][:80]!r}"


def was_executed_in_order(notebook):
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), f"the cells' execution counts are {counts}"


def has_small_images(notebook):
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    text = "".join(data)
                    size = len(text) if kind == "image/svg+xml" else len(base64.b64decode(text))
                    assert size <= MAX_IMAGE, f"an image of {size} bytes, at most {MAX_IMAGE} wanted"


def has_short_cells(notebook):
    imports, *cells = code_cells(notebook)
    assert len(imports["source"].splitlines()) <= MAX_IMPORTS, f"a first cell of more than {MAX_IMPORTS} lines"
    longest = max((len(cell["source"].splitlines()) for cell in cells), default=0)
    assert longest <= MAX_LINES, f"a code cell of {longest} lines, at most {MAX_LINES} wanted"


def prints_versions_first(notebook):
    first = code_cells(notebook)[0]
    shown = "\n".join(strings(first["outputs"]))
    assert "version" in first["source"], "the first code cell does not ask for versions"
    assert re.search(r"\d+\.\d+", shown), "the first code cell's output shows no version"


def asserts_last(notebook):
    last = code_cells(notebook)[-1]
    assert any(isinstance(node, ast.Assert) for node in ast.walk(tree(last))), "no assert in the last code cell"


def names_the_kernel_python3(notebook):
    name = notebook["metadata"].get("kernelspec", {}).get("name")
    assert name == "python3", f"the kernelspec's name is {name!r}, wanted 'python3'"


CHECKS = [
    is_valid,
    has_one_parameters_cell,
    has_no_error_output,
    has_no_machine_path,
    was_executed_in_order,
    has_small_images,
    has_short_cells,
    prints_versions_first,
    asserts_last,
    names_the_kernel_python3,
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_notebook(path, check):
    check(nbformat.read(path, as_version=4))


def good_notebook():
    v4 = nbformat.v4
    sources = [
        "import os\nimport pdm\nprint(pdm.__version__)",
        'SCALE = os.environ.get("SCALE", "pocket")\nSEED = 0',
        "%matplotlib inline\nplot()",
        "assert 1 < 2",
    ]
    cells = [v4.new_code_cell(source, execution_count=n) for n, source in enumerate(sources, 1)]
    cells[0].outputs = [v4.new_output("stream", text="0.1.0\n")]
    cells[1].metadata["tags"] = ["parameters"]
    cells[2].outputs = [v4.new_output("display_data", {"image/png": image(1000), "text/plain": "<Figure>"})]
    cells.insert(0, v4.new_markdown_cell("Prose, with a link to https://example.org/home/page."))
    return v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def image(size):
    return base64.b64encode(bytes(size)).decode()


def machine_path(root):
    return f"/{root}/reader/notebook.py"


def error_output():
    return nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])


BREAK = {  # what is done to the good notebook's (markdown, first, parameters, figure, last) cells
    is_valid: [
        lambda nb, md, first, par, fig, last: last.update(outputs="none"),
        lambda nb, md, first, par, fig, last: md.update(cell_type="prose"),
    ],
    has_one_parameters_cell: [
        lambda nb, md, first, par, fig, last: par.metadata.update(tags=[]),
        lambda nb, md, first, par, fig, last: first.metadata.update(tags=["parameters"]),
        lambda nb, md, first, par, fig, last: par.update(source=par.source.replace("SEED = 0", "SEED")),
        lambda nb, md, first, par, fig, last: par.update(source='SCALE = "smoke"\nSEED = 0'),
    ],
    has_no_error_output: [lambda nb, md, first, par, fig, last: fig.outputs.append(error_output())],
    has_no_machine_path: [
        lambda nb, md, first, par, fig, last: md.update(source=f"see {machine_path('home')}"),
        lambda nb, md, first, par, fig, last: fig.update(source=f"open('{machine_path('tmp')}')"),
        lambda nb, md, first, par, fig, last: first.outputs[0].update(text=f"\n{machine_path('Users')}: warn"),
        lambda nb, md, first, par, fig, last: fig.outputs[0].data.update({"text/html": machine_path("root")}),
    ],
    was_executed_in_order: [
        lambda nb, md, first, par, fig, last: fig.update(execution_count=None),
        lambda nb, md, first, par, fig, last: (fig.update(execution_count=4), last.update(execution_count=3)),
    ],
    has_small_images: [
        lambda nb, md, first, par, fig, last: fig.outputs[0].data.update({"image/png": image(MAX_IMAGE + 1)}),
        lambda nb, md, first, par, fig, last: fig.outputs[0].data.update({"image/svg+xml": "<" * 400_000}),
    ],
    has_short_cells: [lambda nb, md, first, par, fig, last: fig.update(source="x = 1\n" * (MAX_LINES + 1))],
    prints_versions_first: [
        lambda nb, md, first, par, fig, last: first.update(source="import os"),
        lambda nb, md, first, par, fig, last: first.update(outputs=[]),
    ],
    asserts_last: [lambda nb, md, first, par, fig, last: last.update(source="print('# assert 1 < 2')")],
    names_the_kernel_python3: [
        lambda nb, md, first, par, fig, last: nb.metadata.kernelspec.update(name="my-env"),
        lambda nb, md, first, par, fig, last: nb.metadata.pop("kernelspec"),
    ],
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_each_check_passes_a_good_notebook_and_refuses_bad_ones(check):
    check(good_notebook())
    for spoil in BREAK[check]:
        bad = good_notebook()
        spoil(bad, *bad.cells)
        with pytest.raises((AssertionError, nbformat.ValidationError)):
            check(bad)
