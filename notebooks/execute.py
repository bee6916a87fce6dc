"""Runs the notebook from top to bottom and stores its outputs in it, without traces of the machine.

    BERT_BASE_DIR=/path/to/uncased_L-12_H-768_A-12 python notebooks/execute.py

A checksum of the executed code is stored in the notebook's metadata, so a test notices cells that
are edited afterwards. Needs nbclient and ipykernel in addition to what the notebook needs.
"""

import hashlib
import sys
from pathlib import Path

NOTEBOOK = Path(__file__).resolve().parent / "Comparing TF and PT models.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def code_sum(notebook) -> str:
    """A checksum of the code cells, in order, of a notebook as nbformat reads it."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def execute(notebook, folder: str | Path, timeout: int = 600) -> None:
    """Runs the cells in a kernel that starts in `folder`, and stores their outputs in `notebook`.

    `timeout` is in seconds and for each cell. Raises nbclient's CellExecutionError with the
    traceback of the cell that failed.
    """
    from nbclient import NotebookClient

    for cell in notebook.cells:
        cell.metadata.clear()
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name=KERNEL["name"],
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()

    notebook.metadata.clear()
    notebook.metadata.update(
        kernelspec=KERNEL, language_info={"name": "python"}, executed=code_sum(notebook)
    )


def main():
    try:
        import nbformat
    except ImportError:
        sys.exit("this needs nbclient and ipykernel: pip install nbclient ipykernel matplotlib")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook, NOTEBOOK.parent)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
