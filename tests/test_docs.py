"""The documentation: the site builds, its links hold, the reference is whole, the examples run."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pydantic import TypeAdapter

from galpipe import cli, survey
from galpipe.status import Status
from galpipe.survey import Survey
from tests import sky
from tests.running import environment

mkdocs = pytest.importorskip("mkdocs", reason="the documentation's tools are not installed")

TOP = Path(__file__).resolve().parents[1]
DOCS = TOP / "docs"
MARKDOWN = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=TOP, env=environment() | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Links(HTMLParser):
    """What a page refers to, and the anchors it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.to: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.to.append(values["href"])
        if tag in ("script", "img", "iframe") and "src" in values:
            self.loads.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loads.append(values["href"])


def test_every_link_of_the_site_leads_somewhere_and_nothing_is_loaded_from_elsewhere(
    site: Path,
) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) >= 17
    for page, links in pages.items():
        for address in (*links.to, *links.loads):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                assert address not in links.loads, (page, address)
                continue
            target = page if not parts.path else page.parent / unquote(parts.path)
            target = target.resolve()
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (page, address)
            if target.suffix == ".html" and parts.fragment:
                found = pages[target].anchors
                assert unquote(parts.fragment) in found, (page, address)
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\(\s*['\"]?https?:", styles)


def test_links_between_files_hold_where_they_are_read_as_files() -> None:
    generated = {DOCS / "reference" / f"{name}.md" for name in GENERATED}
    for page in MARKDOWN:
        for address in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not urlsplit(address).scheme:
                target = Path(os.path.normpath(page.parent / address))
                assert target.exists() or target in generated, (page, address)


GENERATED = ("survey-file", "command-line", "label-columns", "status")


def text_of(site: Path, name: str) -> str:
    html = (site / "reference" / name / "index.html").read_text()
    return html[html.index("<article") : html.index("</article>")]


def test_every_key_of_every_spec_is_in_the_reference(site: Path) -> None:
    page = text_of(site, "survey-file")
    cells = set(re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", page))
    schema = TypeAdapter(Survey).json_schema()
    keys = {key for one in (schema, *schema["$defs"].values()) for key in one["properties"]}
    assert len(keys) > 100
    assert cells == keys
    rows = re.findall(r"<tr>\s*<td><code>\w+</code></td>.*?</tr>", page, re.DOTALL)
    count = sum(len(one["properties"]) for one in schema["$defs"].values())
    assert len(rows) >= count + len(schema["properties"])
    anchors = re.findall(r'<h2 id="([^"]+)"', page)
    assert len(anchors) == len(set(anchors))


def test_the_reference_says_what_a_key_is(site: Path) -> None:
    page = text_of(site, "survey-file")
    row = re.search(r"<tr>\s*<td><code>nside</code></td>(.*?)</tr>", page, re.DOTALL)
    assert row is not None
    cells = re.findall(r"<td>(.*?)</td>", row[1], re.DOTALL)
    assert cells[:2] == ["whole number", "<code>64</code>"]
    assert cells[2:] == ["≥ 1, ≤ 8192", "HEALPix cells of 0.9 degrees", "yes"]
    title = re.search(r"<tr>\s*<td><code>title</code></td>(.*?)</tr>", page, re.DOTALL)
    assert title is not None and title[1].rstrip().endswith("<td>no</td>")
    empty = re.findall(
        r"<tr>\s*<td><code>(\w+)</code></td>(?:\s*<td>[^\n]*</td>){3}\s*<td></td>", page
    )
    assert not empty, f"no comment beside these keys says what they mean: {empty}"


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for name, one in action.choices.items():
                yield name
                yield from _options(one)


def test_every_command_column_and_bit_is_in_the_reference(site: Path, published: Path) -> None:
    import galpipe

    commands = text_of(site, "command-line")
    for name in set(_options(cli._parser())) - {"--help", "--version"}:
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", commands), name
    labels = galpipe.open_labels(str(published / "workspace"), "mine")
    columns = set(re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", text_of(site, "label-columns")))
    bands = re.compile(r"colour_|input_")
    assert {c for c in labels.column_names if not bands.match(c)} == {
        c for c in columns if not bands.match(c)
    }
    statuses = text_of(site, "status")
    for flag in Status:
        pattern = rf"<td>{flag.value}</td>\s*<td><code>{flag.name}</code></td>\s*<td>[^<]"
        assert re.search(pattern, statuses), flag


# Examples.


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    fence = re.compile(r'^```(\w+)?(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
    return [Block(*(part or "" for part in found)) for found in fence.findall(page.read_text())]


def follow(page: Path, folder: Path) -> int:
    """Do what a page says, in a folder: write its files, run its commands and its Python."""
    names: dict[str, object] = {}
    done = 0
    for block in blocks(page):
        if block.language == "toml" and block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "console":
            done += 1
            _run(block.text, folder)
        elif block.language == "python":
            done += 1
            with contextlib.chdir(folder):
                exec(compile(block.text, f"{page.name} in the documentation", "exec"), names)
    return done


TIMES = re.compile(r"\d+\.\d s\b|\b[0-9a-f]{32}\b")


def _run(text: str, folder: Path) -> None:
    """Run the commands of a console block, and compare what they print; `...` stands for any.

    Seconds and digests are not compared, since they differ between machines.
    """
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        words = shlex.split(command)
        assert words[0] == "galpipe"
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=folder, env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        printed = TIMES.sub("-", done.stdout if done.returncode == 0 else done.stderr)
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(TIMES.sub("-", expected), printed, flags), (
            f"$ {command}\n{printed}{done.stderr}"
        )


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the tutorial on one's own images, all of which was run."""
    folder = tmp_path_factory.mktemp("own")
    sky.draw(folder / "my-galaxies", 240)
    assert follow(DOCS / "tutorials" / "own-images.md", folder) == 7
    return folder


def test_the_tutorial_on_own_images_does_what_it_says(published: Path) -> None:
    said = next(
        block.text
        for block in blocks(DOCS / "tutorials" / "own-images.md")
        if block.text.startswith("objid")
    )
    assert (published / "my-galaxies" / "galaxies.csv").read_text().startswith(said)


def test_reading_labels_works_as_said(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(DOCS / "how-to" / "read-labels.md", published) == 5
    assert "pix" in capsys.readouterr().out.split()


@pytest.mark.slow  # trains a network
def test_drawing_new_galaxies_does_what_it_says(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow(DOCS / "how-to" / "generate.md", published) == 4
    asked, drawn = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:2])
    assert asked == 7 and 5 < drawn < 9


def survey_files() -> list[tuple[str, Block]]:
    return [
        (str(page.relative_to(TOP)), block)
        for page in MARKDOWN
        for block in blocks(page)
        if block.language == "toml" and (block.title or block.text.startswith("name ="))
    ]


@pytest.mark.parametrize(
    "block", [pytest.param(b, id=f"{name}:{b.title}") for name, b in survey_files()]
)
def test_survey_files_of_the_documentation_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / (block.title or "survey.toml")
    path.write_text(block.text)
    if path.name == "wrong.toml":
        from galpipe.errors import InputError

        with pytest.raises(InputError, match="did you mean 'bands'"):
            survey.load(path)
        return
    assert survey.load(path).name


def sdss_survey() -> str:
    (block,) = [b for b in blocks(DOCS / "tutorials" / "sdss.md") if b.title == "sdss.toml"]
    return block.text


def test_one_line_leads_from_the_simulated_sky_to_the_real_one(tmp_path: Path) -> None:
    (line,) = [b.text for b in blocks(DOCS / "tutorials" / "sdss.md") if b.text.startswith("kind")]
    path = tmp_path / "sdss.toml"
    text = re.sub(r'^kind = "sky".*\n', line, sdss_survey(), count=1, flags=re.MULTILINE)
    path.write_text(text)
    archive = survey.load(path).archive
    assert archive.kind == "sdss" and archive.skyserver == "https://skyserver.sdss.org"


@pytest.mark.slow  # draws a sky of its own
def test_the_sdss_tutorial_runs_on_the_simulated_sky(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    text = sdss_survey().replace('kind = "sky" ', 'galaxies = 120\nkind = "sky" ')
    assert "galaxies = 120" in text
    (tmp_path / "sdss.toml").write_text(text)
    _run("$ galpipe run sdss.toml\nsdss r1: ... objects\n  sample ...", tmp_path)
    assert (tmp_path / "workspace/releases/sdss/r1/labels.parquet").exists()


@pytest.mark.slow  # draws the whole sky of the demo
def test_the_demo_tutorial_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "tutorials" / "demo.md"
    (said,) = [b.text for b in blocks(page) if b.text.startswith("  labels:")]
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    _run(
        "$ galpipe demo --prune 100\ndemo r1-prune100: 100 objects\n...\n"
        + said.replace("demo/r1/", "demo/r1-prune100/"),
        tmp_path,
    )
    assert follow(page, tmp_path) == 1


@pytest.mark.slow  # draws a sky of its own
def test_bringing_a_survey_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALPIPE_CACHE", str(tmp_path / "cache"))
    assert follow(DOCS / "how-to" / "new-survey.md", tmp_path) == 2
