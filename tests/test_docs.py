"""The documents tell the truth: their commands exist with their options, their links resolve, their blocks run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import factory
import msgspec
import pytest
import tiny
import typer

from mtkd_edge.cli.app import EXIT_CODES, app
from mtkd_edge.device.station.config import Config
from mtkd_edge.device.targets import Batch, Limits, OpenvinoRecipe, Target, TensorrtRecipe
from mtkd_edge.errors import MtkdError

ROOT = Path(__file__).resolve().parent.parent
GROUP: Any = typer.main.get_command(app)
BLOCK = re.compile(r"^```(?:bash|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"<!-- executed by tests/test_docs.py -->\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = set(GROUP.commands)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


DOCUMENTS = tracked("*.md")


def spoken_lines(text: str, program: str = "mtkd-edge") -> list[list[str]]:
    """The words after `program` of every line that begins with it in the blocks, comments off, pieces joined."""
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    said = [line.removeprefix("sudo -u mtkd-edge ") for line in lines]
    words = [shlex.split(line, comments=True) for line in said if line.startswith(f"{program} ")]
    return [line[len(program.split()) :] for line in words]


def wrong(words: list[str]) -> list[str]:
    """What a command line names that the program does not have."""
    if not words or words[0] not in COMMANDS:
        return [f"no command {words[:1]}"]
    command = GROUP.commands[words[0]]
    if commands := getattr(command, "commands", None):
        if words[1:2] == [] or words[1] not in commands:
            return [f"no command {words[:2]}"]
        command = commands[words[1]]
    options = {option for parameter in command.params for option in parameter.opts}
    return [word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in options]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_in_a_document_exists_with_its_options(document: Path) -> None:
    assert {" ".join(words): wrong(words) for words in spoken_lines(document.read_text()) if wrong(words)} == {}


def options_of(script: str) -> set[str]:
    """What a script takes, by its text; `measure.py` gives to `train` what it does not know itself."""
    found = set(re.findall(r'"(--[a-z-]+)"', (ROOT / script).read_text()))
    if script.endswith("measure.py"):
        found |= {option for parameter in GROUP.commands["train"].params for option in parameter.opts}
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_script_in_a_document_takes_its_options(document: Path) -> None:
    for words in spoken_lines(document.read_text(), "python"):
        if words[0].startswith("scripts/"):
            assert {word for word in words if word.startswith("--")} <= options_of(words[0]), words


def test_a_wrong_command_line_would_be_noticed() -> None:
    assert spoken_lines("```bash\nmtkd-edge train x --fast  # quick\n```\n") == [["train", "x", "--fast"]]
    assert spoken_lines("```text\nmtkd-edge train \\\n  x\n1 mtkd-edge\n```\n") == [["train", "x"]]
    assert "--seeds" in options_of("scripts/measure.py") and "--merge" in options_of("scripts/measure.py")
    assert "--fast" not in options_of("scripts/measure.py")
    assert wrong(["train", "--fast"]) == ["--fast"]
    assert wrong(["fly"]) and wrong(["events", "fly"])
    assert wrong(["events", "list", "./shift-1", "--fast"]) == ["--fast"]


def test_the_readme_shows_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    spoken = {words[0] for words in spoken_lines(text)} | set(re.findall(r"`mtkd-edge ([a-z-]+)", text))
    # `demo` is what scripts/demo.sh runs
    assert spoken | {"demo"} >= COMMANDS


def test_readme_and_help_name_every_exit_code_of_the_error_tree() -> None:
    codes = {0, 1, 130} | {kind.exit_code for kind in MtkdError.__subclasses__()}
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)}
    assert table == codes
    assert {int(code) for code in re.findall(r"(?:^|\s{2})(\d+) [a-z]", EXIT_CODES)} == codes


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's reader stands: an engine of ./bottle in the MVTec layout, and more good parts."""
    plant = factory.build(tmp_path_factory.mktemp("workshop"))
    plant.engine.rename(plant.engine.with_name("bottle-cpu"))
    plant.photos.rename(plant.root / "more-good-parts")
    factory.write(plant.root / "bottle" / "train" / "good", tiny.normal_frames(12, seed=3))
    factory.write(plant.root / "bottle" / "test" / "good", tiny.normal_frames(4, seed=4))
    plant.bad.rename(plant.root / "bottle" / "test" / "blotch")
    return plant.root


def test_the_marked_shell_blocks_of_the_readme_run(workshop: Path) -> None:
    blocks = MARKED.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 3
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    for block in blocks:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=workshop,
            env={"PATH": path, "HOME": str(workshop)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def keys(struct: type[msgspec.Struct]) -> set[str]:
    """Every key that a section of station.toml takes, below it too."""
    found: set[str] = set()
    for field in msgspec.structs.fields(struct):
        inner = [each for each in (field.type, *get_args(field.type)) if isinstance(each, type)]
        sections = [each for each in inner if issubclass(each, msgspec.Struct)]
        found |= {field.name}.union(*(keys(each) for each in sections))
    return found


def test_the_guide_lists_every_key_of_a_station_and_no_other() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text.partition("## 3.")[2].partition("## 4.")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("|")]
    named = {word.strip("[]") for cell in cells for word in re.findall(r"`([^`]+)`", cell)} - {"source.rules"}
    assert {word.rpartition(".")[2] for word in named} == keys(Config)
    for block in re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        msgspec.toml.decode(block.encode(), type=Config)


def test_the_recipes_page_lists_every_key_of_a_target_with_its_default() -> None:
    rows = [row.split("|") for row in (ROOT / "engines" / "README.md").read_text().splitlines() if row.startswith("|")]
    pairs = (zip(*(re.findall("`([^`]+)`", cell) for cell in row[1:3]), strict=False) for row in rows)
    listed = dict(pair for row in pairs for pair in row)
    named = {word.strip("[]") for row in rows for word in re.findall(r"`([^`]+)`", row[1])}
    assert named == keys(Target)
    for struct in (Target, Batch, OpenvinoRecipe, TensorrtRecipe, Limits):
        for field in msgspec.structs.fields(struct):
            if isinstance(field.default, int | float | str):
                assert listed[field.name] == msgspec.json.encode(field.default).decode()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_resolve(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in local if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_named_in_a_document_exist(document: Path) -> None:
    named = re.findall(r"(?:scripts|tests|docs|mtkd_edge)/[\w./-]+\.(?:sh|py|md)", document.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_no_tracked_file_holds_a_path_of_one_machine() -> None:
    # spelled in two halves, so that this file does not hold what it looks for
    paths = re.compile("|".join(rf"(?<![\w.~-])/{name}/(?=[a-z])" for name in ("wo" + "rk", "ro" + "ot", "ho" + "me")))
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            lines = data.decode(errors="replace").splitlines()
            found += [f"{path.relative_to(ROOT)}:{n}" for n, line in enumerate(lines, 1) if paths.search(line)]
    assert found == []


@pytest.mark.parametrize("script", tracked("scripts/*.sh", ".ci/run"), ids=lambda path: path.name)
def test_shell_scripts_parse_and_may_be_run_from_anywhere(script: Path, tmp_path: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, cwd=tmp_path)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_python_m_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "mtkd_edge", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[0]) == (0, "mtkd-edge")
