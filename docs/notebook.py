"""Runs the notebooks of docs/ with the demo's results of this checkout and keeps their outputs; the site shows these.

    python docs/notebook.py          after `make demo`; part of `make docs-assets`

Cells run in one namespace, as in Jupyter: the value of a last expression is shown, as HTML where it has any, and figures of
matplotlib as PNG. The environment of the pipeline has no Jupyter, and needs none for this.
"""

import ast
import base64
import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

NOTEBOOKS = Path(__file__).parent.glob("**/*.ipynb")


def run(notebook: dict) -> dict:
    """The notebook with the outputs of its cells; an exception of a cell comes through."""
    space: dict = {}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            cell["execution_count"] = number
            cell["outputs"] = outputs("".join(cell["source"]), space, number)
    return notebook


def outputs(code: str, space: dict, number: int) -> list[dict]:
    """Runs one cell in `space`; its outputs in the notebook format."""
    tree = ast.parse(code)
    last = ast.Expression(tree.body.pop().value) if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), space)
        if last is not None:
            value = eval(compile(last, f"cell {number}", "eval"), space)
    found = []
    if printed.getvalue():
        found.append({"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)})
    figures = [plt.figure(place) for place in plt.get_fignums()]
    for figure in figures:
        data = {"image/png": png(figure)}
        found.append({"output_type": "display_data", "data": data, "metadata": {}})
    plt.close("all")
    if value is not None and not figures:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        found.append({"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}})
    return found


def png(figure: plt.Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80, metadata={"Software": None})
    return base64.b64encode(stream.getvalue()).decode()


def main() -> None:
    for path in NOTEBOOKS:
        notebook = run(json.loads(path.read_text()))
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        print(f"{path} written")


if __name__ == "__main__":
    main()
