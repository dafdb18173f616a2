"""What `make docs` makes of sources: pages of the C++ headers, tables of the options (of the module that
was built), and the tutorial notebook as a page. Hooks of MkDocs."""

import importlib
import json
import pathlib
import re
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parent.parent

def module(name):
    """A module of the build or of this folder. MkDocs takes back what hooks add to the path."""
    sys.path[:0] = [str(ROOT / "build" / "python"), str(ROOT / "scripts")]
    return importlib.import_module(name)


def notebook_page(path):
    """The cells of a notebook as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(parts) + "\n"


def option_table(command):
    """The options of a command, a table for each group."""
    groups = {}
    for option in module("hetmem").option_table(command):
        groups.setdefault(option["group"], []).append(option)
    lines = []
    for group, options in groups.items():
        lines += [f"### {command}: {group[0].lower() + group[1:]}", "",
                  "| flag | value | default | meaning |", "|---|---|---|---|"]
        for option in options:
            cells = [f"`--{option['name']}`", option["value"] or "switch", option["default"], option["help"]]
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def header_text(path):
    """(the first comment as text, what follows it but for includes)"""
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("//"))
    about = "\n".join(line[2:].removeprefix(" ") for line in lines[:end])
    # Examples are indented in the comment; Markdown wants an empty line before them.
    about = re.sub(r"\n(?=  +\S)", "\n  ", about)
    body = "\n".join(line for line in lines[end:] if not line.startswith("#"))
    body = re.sub(r"^(?:\s*\n)+|^namespace hetmem {\n|\n}  // namespace hetmem\s*$", "", body, flags=re.M)
    return about, re.sub(r"\n{3,}", "\n\n", body).strip()


def header_pages():
    """folder -> page of its headers"""
    pages = {}
    for folder in (folder for layer in module("layers").LAYERS[:-1] for folder in layer):
        page = [f"# {folder}/", ""]
        for path in sorted((ROOT / folder).glob("*.h")):
            about, body = header_text(path)
            page += [f"## {folder}/{path.name}", "", about, "", "```cpp", body, "```", ""]
        pages[folder] = "\n".join(page)
    return pages


def on_files(files, config):
    source = files.get_file_from_path("tutorial.ipynb")
    files.append(File.generated(config, "tutorial.md", content=notebook_page(ROOT / "docs" / "tutorial.ipynb")))
    files.remove(source)
    for folder, page in header_pages().items():
        generated = File.generated(config, f"api/cpp-{folder}.md", content=page)
        generated.inclusion = generated.inclusion.NOT_IN_NAV
        files.append(generated)
    return files


def on_page_markdown(markdown, page, config, files):
    markdown = markdown.replace("(tutorial.ipynb)", "(tutorial.md)")
    markdown = re.sub(r"<!-- options of (\w+) -->", lambda found: option_table(found[1]), markdown)
    if "<!-- headers -->" in markdown:
        links = "\n".join(f"- [{folder}/](cpp-{folder}.md)" for folder in header_pages())
        markdown = markdown.replace("<!-- headers -->", links)
    return markdown


def on_page_content(html, page, config, files):
    """What docstrings get from the table when the package is imported is on a page of its own here."""
    return html.replace("{options}", 'see <a href="../command-line.html">the command line</a>.')
