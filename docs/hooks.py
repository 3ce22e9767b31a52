"""What the site has beside the pages in docs/: pages of other files, tables made of code, and links between them."""

import ast
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docstring_parser import parse_from_object
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from agents.config import AgentRun
from rmc_rl.tasks.config import TaskRun

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files outside docs/ that are pages, as what."""
LINK = re.compile(r"\[([^]]*)\]\((?![a-z]+:|#)([^)#\s]+)")
NAME = re.compile(r"<code>((?:rmc_rl|agents|envs)(?:\.\w+)+)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "examples.md", content=examples()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Links are written for readers of the repository: have them lead to where the site has the file, by its title.

    And the page on configuration gets its tables.
    """
    sources = {page: source for source, page in PAGES.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))
    title_of = titles(config.nav or [])

    def on_site(match: re.Match[str]) -> str:
        text, path = match.groups()
        source = posixpath.normpath(posixpath.join(folder, path))
        target = PAGES.get(source, source.removeprefix("docs/"))
        if text.endswith(".md"):
            text = title_of.get(target, text)
        if source.startswith("examples/"):
            target = f"examples.md#{Path(source).stem}"
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(here))}"

    return LINK.sub(on_site, markdown) + (configuration() if here == "configuration.md" else "")


def on_page_content(html: str, **_: Any) -> str:
    """A name such as `rmc_rl.policies.RMCPolicy` leads to its place in the reference, if it has one."""
    return NAME.sub(r'<autoref optional identifier="\1"><code>\1</code></autoref>', html)


def titles(nav: list[Any]) -> dict[str, str]:
    """Of pages, by their paths in docs/."""
    found: dict[str, str] = {}
    for entry in nav:
        for title, target in entry.items():
            found |= titles(target) if isinstance(target, list) else {target: title}
    return found


def examples() -> str:
    """All scripts in examples/, each under what its first line says."""
    parts = ["# Examples\n\nShort scripts; each runs as it stands, and does so in the tests.\n"]
    for path in sorted((ROOT / "examples").glob("*.py")):
        code = path.read_text()
        what = (ast.get_docstring(ast.parse(code)) or "").partition("\n")[0]
        parts.append(f"## {path.name} {{#{path.stem}}}\n\n{what}\n\n```python\n{code}```\n")
    return "\n".join(parts)


def configuration() -> str:
    """Every setting of train.py: name, type, default and the docstring beneath its field."""
    return "\n".join(
        line for run in (AgentRun, TaskRun) for line in (f"\n## {(run.__doc__ or '').rstrip('.')}\n", *tables(run))
    )


def tables(settings: type, prefix: str = "") -> Iterator[str]:
    """A table of the settings, and one for each group of settings among them."""
    described = descriptions(settings)
    groups = {field.name: field.type for field in fields(settings) if is_dataclass(field.type)}
    yield "| setting | type | default | |\n|---|---|---|---|"
    for field in fields(settings):
        if field.name not in groups:
            if field.name not in described:
                raise PluginError(f"{settings.__name__}.{field.name} must have a docstring beneath it")
            cells = [f"`{cell}`" for cell in (prefix + field.name, type_of(field.type), default_of(field))]
            yield f"| {' | '.join(cells)} | {described[field.name]} |"
    yield ""
    for name, group in groups.items():
        assert isinstance(group, type)
        about = (group.__doc__ or "").partition("\n")[0]
        yield f"### `{prefix}{name}`\n\n{' '.join(filter(None, [described.get(name), about]))}\n"
        yield from tables(group, f"{prefix}{name}.")


def descriptions(settings: type) -> dict[str, str]:
    """The docstrings beneath the fields, those of fields that a base class describes included."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__[:-1]):
        parameters = parse_from_object(kind).params
        found |= {one.arg_name: " ".join(one.description.split()) for one in parameters if one.description}
    return found


def type_of(kind: Any) -> str:
    """As it is written in the code; but of a choice, what there is to choose from."""
    if get_origin(kind) is Literal:
        return " | ".join(map(json.dumps, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " | ".join(map(type_of, get_args(kind))).replace("NoneType", "null")
    return str(kind).replace("typing.", "") if get_args(kind) else kind.__name__


def default_of(field: Field[Any]) -> str:
    """As YAML."""
    return json.dumps(field.default if field.default_factory is MISSING else field.default_factory())
