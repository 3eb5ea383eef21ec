"""Notebooks are whole as they are committed, and run from any folder and in any order."""

import ast
import builtins
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_500_000  # Bytes.

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(cell):
    return ast.parse(TransformerManager().transform_cell(cell.source))


def texts(cells):
    """What outputs say in words, by stream."""
    for cell in cells:
        for output in cell.outputs:
            data = output.get("data", {})
            yield output.get("name", ""), output.get("text", "") + data.get("text/plain", "")


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= {
        *("quickstart", "own_loss", "why_moments_matter", "smmd_geometry", "ring")
    }


@each_notebook
def test_is_valid_and_small(path):
    nbformat.validate(read(path))
    assert path.stat().st_size < LARGEST


@each_notebook
def test_begins_with_a_title_and_its_folder(path):
    notebook = read(path)
    assert notebook.cells[0].source.startswith("# ")
    assert f'folder = workspace("{path.stem.replace("_", "-")}")' in code_cells(notebook)[0].source


@each_notebook
def test_was_run_from_top_to_bottom_without_errors(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert kinds & {"display_data", "execute_result"}


@each_notebook
def test_outputs_have_no_warnings_and_no_places_of_one_machine(path):
    for stream, text in texts(code_cells(read(path))):
        assert not (stream == "stderr" and "warn" in text.lower())
        assert not re.search("/(root|home|Users|tmp)/", text)


def bound(node):
    """Names that a cell gives a value to, imports included."""
    names = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            names.add(part.id)
        elif isinstance(part, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in part.names}
        elif isinstance(part, ast.FunctionDef | ast.ClassDef):
            names.add(part.name)
        elif isinstance(part, ast.arg):
            names.add(part.arg)
    return names


def used(node):
    loads = (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
    return {name.id for name in loads} - set(dir(builtins)) - {"get_ipython"}


def announced(node):
    """Names that a cell gives to ``needs``."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and getattr(part.func, "id", "") == "needs":
            return {argument.value for argument in part.args}
    return set()


@each_notebook
def test_every_cell_says_what_it_needs_of_those_above(path):
    for cell in code_cells(read(path))[1:]:
        code = tree(cell)
        missing = used(code) - bound(code) - announced(code)
        assert not missing, f"{missing} in {cell.source.splitlines()[0]!r}"


def run(notebook, folder, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@each_notebook
def test_runs(path, tmp_path, monkeypatch):
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    run(notebook, tmp_path, monkeypatch)
    cells = code_cells(notebook)
    assert not list(tmp_path.iterdir())
    assert not [text for name, text in texts(cells) if name == "stderr" and "warn" in text.lower()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cell_run_too_early_says_so_in_one_line(tmp_path, monkeypatch):
    notebook = read(ROOT / "notebooks" / "quickstart.ipynb")
    notebook.cells = code_cells(notebook)[2:3]
    notebook.cells[0].metadata["tags"] = ["raises-exception"]
    run(notebook, tmp_path, monkeypatch)
    (error,) = notebook.cells[0].outputs
    assert error.ename == "NotRunError"
    assert error.traceback == ["run: not there yet; run the cells above first"]
