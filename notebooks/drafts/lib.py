import nbformat
from pathlib import Path
def write(name, cells):
    nb = nbformat.v4.new_notebook()
    nb.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    for i, (kind, text) in enumerate(cells):
        text = text.strip("\n")
        if kind == "md": cell = nbformat.v4.new_markdown_cell(text)
        else:
            cell = nbformat.v4.new_code_cell(text)
            if kind == "parameters": cell.metadata["tags"] = ["parameters"]
        cell["id"] = f"c{i:02d}"
        nb.cells.append(cell)
    path = Path("/tmp/nb") / f"{name}.ipynb"
    nbformat.write(nb, path)
