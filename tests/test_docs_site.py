"""The documentation site: it builds without a warning and needs no other place, and what is generated is complete."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import agents
import envs
import rmc_rl
from agents import config, hyperparameters, placement
from agents.config import AgentRun
from rmc_rl import contrib, policies, tasks
from rmc_rl.cores import CORES
from rmc_rl.cores.core import UnrollPath
from rmc_rl.tasks import config as task_config
from rmc_rl.tasks.config import TaskRun

ROOT = Path(__file__).parents[1]
PYTHON = {
    page: re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    for page in ("cores.md", "agents.md")
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: a broken link, a missing anchor or a docstring that does not fit is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def read(site: Path, page: str) -> str:
    return (site / f"{page}.html").read_text()


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys; arguments that are handed on are one value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        is_group = isinstance(value, dict) and not key.endswith("kwargs")
        flat |= flatten(value, f"{prefix}{key}.") if is_group else {prefix + key: value}
    return flat


def test_configuration_has_every_setting(site: Path) -> None:
    """Each field of each class: its name, its default as JSON, a type and what it means."""
    row = re.compile(r"<tr>\s*" + r"<td>(.*?)</td>\s*" * 4 + "</tr>")
    found = row.findall(read(site, "configuration"))
    rows = [[html.unescape(re.sub("<.*?>", "", cell)) for cell in cells] for cells in found]
    expected = [item for run in (AgentRun(), TaskRun()) for item in flatten(dataclasses.asdict(run)).items()]
    assert len(expected) > 60
    assert sorted((name, default) for name, _, default, _ in rows) == sorted(
        (name, json.dumps(default)) for name, default in expected
    )
    assert all(kind and about for _, kind, _, about in rows)


@pytest.mark.parametrize("module", [config, hyperparameters, placement, task_config])
def test_no_class_of_settings_escapes(module: ModuleType) -> None:
    """What is not part of a run would not be in the configuration."""
    found = {one for one in vars(module).values() if isinstance(one, type) and dataclasses.is_dataclass(one)}
    parts = [field.type for run in (AgentRun, TaskRun) for field in dataclasses.fields(run)]
    assert found <= {AgentRun, TaskRun, *parts}


def test_reference_has_every_public_name(site: Path) -> None:
    """And docstrings are understood: no section of one is left as text."""
    pages = {path.name: path.read_text() for path in (site / "api").glob("*.html")}
    anchors = set(re.findall(r'id="([\w.]+)"', "".join(pages.values())))
    public = [f"{module.__name__}.{name}" for module in (rmc_rl, tasks, agents, envs) for name in module.__all__]
    public += [f"{policy.__module__}.{name}" for kind in (policies, contrib) for name, policy in kind.POLICIES.items()]
    assert len(public) > 30
    assert set(public) - anchors == set()
    for name, text in pages.items():
        assert re.findall(r"(?:Args|Returns|Raises):\s", text) == [], name


def test_names_in_the_text_lead_to_the_reference(site: Path) -> None:
    link = r'<a [^>]*href="api/envs.html#rmc_rl.wrappers.ActionMasks"[^>]*><code>rmc_rl.wrappers.ActionMasks</code></a>'
    assert re.search(link, read(site, "spaces"))
    assert 'href="examples.html#action_masks"' in read(site, "spaces")


def test_lists_and_tables_are_what_they_are_on_github(site: Path) -> None:
    """The site's Markdown takes a list for text if no empty line is before it."""
    for path in site.rglob("*.html"):
        for paragraph in re.findall(r"<p>(.*?)</p>", path.read_text(), re.DOTALL):
            assert not re.search(r"^ *([-*|]|\d+\.) ", paragraph, re.MULTILINE), (path, paragraph)


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    """A reader's browser fetches fonts, scripts, styles and pictures from the site alone."""
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:link|script|img)\b[^>]*>", path.read_text()):
            assert "//" not in tag, (path, tag)


@pytest.mark.parametrize("page", PYTHON)
def test_python_blocks_run(page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One after the other. Actors in processes are made here, and train in tests/agents/test_local_actors.py."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    with torch.random.fork_rng():
        for code in PYTHON[page]:
            exec(compile(code.replace("    model.learn(2_000)\n", ""), page, "exec"), names)
    if page == "agents.md":
        assert (names["model"].placement.actors, names["model"].num_envs) == (2, 8)
        assert names["mean"] > 0
    else:
        assert names["outputs"].shape == (20, 8, 4 * 64)


def test_every_core_placement_and_path_is_named() -> None:
    text = (ROOT / "docs" / "cores.md").read_text()
    for name, core in CORES.items():
        assert re.search(rf"^\| `{name}` \| `{core.__name__}`, `\w+Policy`", text, re.MULTILINE), name
    for path in UnrollPath.__args__:
        assert f'| `"{path}"` |' in text
    for kind in placement.Placement.__annotations__["kind"].__args__:
        assert f"| `{kind}` |" in (ROOT / "docs" / "agents.md").read_text()
