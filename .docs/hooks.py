"""Add to MkDocs what lies outside of its folder: README, notebooks, docstrings."""

import ast
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGES = {"lightning_igm": "lightning_igm", "datamodules": "lightning_igm.data"}
COPIES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "CITATION.cff": "CITATION.cff",
    "LICENSE": "LICENSE",
}


def modules() -> list[str]:
    """Names of all public modules that document something."""
    names = []
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            if any(part.startswith("_") and part != "__init__" for part in parts):
                continue
            tree = ast.parse(path.read_text())
            public = any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in tree.body)
            if public and parts[-1] != "__init__":
                names.append(".".join(parts))
    return names


def notebooks() -> list[Path]:
    """The notebooks, the quickstart first."""
    found = (ROOT / "notebooks").glob("*.ipynb")
    return sorted(found, key=lambda path: (path.stem != "quickstart", path.stem))


def on_config(config: MkDocsConfig) -> None:
    """Add the notebooks and the reference to the navigation."""
    pages: list[Any] = [{title(path): f"notebooks/{path.stem}.md"} for path in notebooks()]
    config.nav.insert(1, {"Notebooks": pages})
    groups: dict[str, list[Any]] = {}
    for name in modules():
        group = ".".join(name.split(".")[:-1])
        groups.setdefault(group, []).append({name.split(".")[-1]: f"reference/{name}.md"})
    config.nav.append({"Reference": [{group: pages} for group, pages in sorted(groups.items())]})


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links of pages lead to files of the repository; on the site these have other places."""
    markdown = markdown.replace("](../../README.md", "](index.md")
    markdown = markdown.replace("](../../.github/images/", "](images/")
    return re.sub(r"\]\(\.\./\.\./notebooks/(\w+)\.ipynb", r"](notebooks/\1.md", markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for page, source in COPIES.items():
        text = (ROOT / source).read_text()
        # Pictures and pages have another place on the site.
        text = text.replace(".github/images/", "images/").replace(".docs/pages/", "")
        text = text.replace("](CONTRIBUTING.md", "](contributing.md")
        text = re.sub(r"notebooks/(\w+)\.ipynb", r"notebooks/\1.md", text)
        files.append(File.generated(config, page, content=text))
    for picture in sorted((ROOT / ".github" / "images").glob("*.png")):
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    for path in notebooks():
        for page, content in rendered(path).items():
            files.append(File.generated(config, f"notebooks/{page}", content=content))
    for name in modules():
        files.append(File.generated(config, f"reference/{name}.md", content=f"::: {name}\n"))
    return files


# --- notebooks ------------------------------------------------------------------------------------


def title(path: Path) -> str:
    """Heading of a notebook."""
    first = "".join(json.loads(path.read_text())["cells"][0]["source"])
    return first.splitlines()[0].lstrip("# ")


def rendered(path: Path) -> dict[str, str | bytes]:
    """A notebook as a page, and its pictures, by their file names."""
    parts, pictures = [], {}
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for place, output in enumerate(cell["outputs"]):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{path.stem}-{number}-{place}.png"
                pictures[name] = b64decode("".join(data["image/png"]))
                parts.append(f"![]({name})")
            elif "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
            elif text := "".join(data["text/plain"]).rstrip():
                parts.append(f"```text\n{text}\n```")
    return {f"{path.stem}.md": "\n\n".join(parts) + "\n", **pictures}
