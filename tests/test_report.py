"""The report: everything in one safe file, whatever a survey lacks, and the same bytes again."""

from __future__ import annotations

import base64
import csv
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from galpipe import releases, survey
from galpipe.catalogue import credit, references
from galpipe.catalogue.report import charts, classification, fractions, latent, pictures
from galpipe.catalogue.report.release import About, Inputs, _magnitude
from galpipe.catalogue.report.stage import FILES, report
from galpipe.errors import InputError
from galpipe.stages import Context
from galpipe.workspace import Ref, Workspace
from tests import sky
from tests.browser import Browser
from tests.running import run_chain
from tests.test_stop import MODEL

EVIL = '<script>alert("id")</script>'
EVIL_CLASS = '<img src=x onerror=alert(1)> $\\frac$ "&" 星'
SECTIONS = (
    "status", "clusters", "fractions", "agreement", "probe", "map", "strange", "drawn", "training",
    "credit",
)  # fmt: skip


class Page(HTMLParser):
    """What a page holds: text, images, elements and the addresses it names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.content = path.read_text(encoding="utf-8")
        self.images: list[dict[str, str]] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(self.content)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag == "img":
            self.images.append(values)
        assert not any(name.startswith("on") for name in values)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def write_table(folder: Path, columns: dict[str, Any]) -> None:
    """Columns beside those of a drawn sky; existing ones are replaced."""
    path = folder / "galaxies.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row |= {name: str(values[number]) for name, values in columns.items()}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def make(root: Path, toml: Path, title: str | None = None) -> Path:
    """The folder of the report of a survey's newest release."""
    workspace, chosen = Workspace.open(root), survey.load(toml)
    record = releases.record(workspace, chosen.name, None)
    refs = {name: Ref(name, digest) for name, digest in record["refs"].items()}
    inputs = Inputs(
        catalogue=refs["sample"], cutouts=refs["cutouts"], stamps=refs["stamps"],
        model=refs.get("model"), embeddings=refs.get("embeddings"), clusters=refs["clusters"],
        assignments=refs["assignments"], evaluation=refs["evaluation"], labels=refs["labels"],
    )  # fmt: skip
    about = About(
        chosen.name, title or chosen.title, record["release"], chosen.archive.kind,
        chosen.archive.bands,
    )  # fmt: skip
    made = report(Context(workspace), about, chosen.evaluate, chosen.publish, inputs)
    return workspace.place(made)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A survey with all there can be, some of it hostile, and objects that fail."""
    folder = tmp_path_factory.mktemp("rich")
    objects = 150
    sky.draw(folder / "sky", objects)
    rng = np.random.default_rng(0)
    kinds = [sky.KINDS[int(np.random.default_rng(n).integers(3))] for n in range(objects)]
    files = [f"images/{587722981741363200 + 7919 * n}.png" for n in range(objects)]
    files[3] = "images/gone.png"
    (folder / "sky" / files[4]).write_bytes(b"no image")
    write_table(
        folder / "sky",
        {
            "objid": [f"{EVIL}{n}" for n in range(objects)],
            "file": files,
            "kind": [EVIL_CLASS if kind == "round" else kind for kind in kinds],
            "z": rng.uniform(0.02, 0.1, objects),
            "petroMag_r": rng.uniform(14, 18, objects),
            "p_round": [float(kind == "round") for kind in kinds],
            "ra": 359 + (np.arange(objects) * 0.037) % 2,
            "dec": (np.arange(objects) * 0.011) % 1 - 0.5,
        },
    )
    toml = sky.survey_file(
        folder / "sky.toml", folder / "sky", MODEL, '[publish]\ncredit = ["gz2", "sdss-dr7"]\n'
    )
    text = toml.read_text().replace('"int64"', '"string"')
    text = text.replace('ra = "ra"', 'ra = "ra"\nredshift = "z"').replace(
        'truth = { classes = "kind" }', 'truth = { classes = "kind", votes = ["p_round"] }'
    )
    toml.write_text(f"title = '<b>Rich & {EVIL}</b>'\n{text}")
    run_chain(toml, folder / "w")
    return folder / "w", toml


@pytest.fixture(scope="module")
def rich_page(rich: tuple[Path, Path]) -> Page:
    return Page(make(*rich) / "report.html")


def test_the_page_has_every_section_in_order(rich_page: Page) -> None:
    assert [name for name in rich_page.ids if name in SECTIONS] == list(SECTIONS)
    assert [a for a in rich_page.addresses if a.startswith("#")] == [f"#{s}" for s in SECTIONS]
    for word in (
        "150 objects were taken", "148 of them", "normalised mutual information",
        "MISSING_FILE", "CORRUPT", "petroMag_r", "redshift", "Galaxies from the prior",
        "4 latent dimensions", "Galaxy Zoo 2 ", "SDSS DR7", "@article{Willett2013",
    ):  # fmt: skip
        assert word in rich_page.text, word
    assert "(no " not in rich_page.text and "None" not in rich_page.text


def test_figures_of_the_page_are_those_of_the_evaluation(
    rich: tuple[Path, Path], rich_page: Page
) -> None:
    ((path,),) = (list((rich[0] / "store" / "evaluation").glob("*/figures.json")),)
    figures = json.loads(path.read_text())
    classes = figures["published"]["classes"]
    n, whole = classes["n"], figures["judged_on"] == "all"
    judged = f"all {n} objects" if whole else f"{n} held-out objects"
    assert f"{classes['nmi']:.3f} at most {classes['nmi_bound']:.3f}" in rich_page.text
    assert f"On {judged} of known class" in rich_page.text
    table = rich_page.text.split("true classes")[0]
    for row in classes["confusion"]["counts"]:
        cells = [f"{n} {100 * n / sum(row):.0f} %" if n else "0" for n in row]
        assert " ".join([str(sum(row)), *cells]) in table


def test_every_cluster_shows_random_and_typical_members(rich_page: Page) -> None:
    names = re.findall(r'aria-label="Cluster (c\d\d)"', rich_page.content)
    assert names == ["c00", "c01", "c02"]
    assert rich_page.text.count("most typical") >= 3
    shown = re.findall(r"(\d+) objects?, (\d+\.\d) %", rich_page.text)
    assert sum(int(count) for count, _ in shown) == 148
    assert sum(float(share) for _, share in shown) == pytest.approx(100, abs=0.2)


def test_nothing_from_data_is_markup(rich_page: Page) -> None:
    assert rich_page.tags.count("script") == 1
    assert "alert(" not in re.search(r"<script>(.*?)</script>", rich_page.content, re.S)[1]  # type: ignore[index]
    assert EVIL in rich_page.text and EVIL_CLASS.replace("_", " ") in rich_page.text
    assert f"<b>Rich & {EVIL}</b>" in rich_page.text
    assert "src=x" not in re.sub(r"&[a-z#0-9]+;[^<]*", "", rich_page.content)


def test_the_page_stands_alone_and_is_small(rich_page: Page) -> None:
    for address in rich_page.addresses:
        assert address.startswith(("data:image/", "#")), address[:80]
    assert "default-src 'none'" in rich_page.content
    assert "@import" not in rich_page.content and "url(" not in rich_page.content
    assert len(rich_page.content) < 10e6
    for image in rich_page.images:
        assert image["alt"].strip(), image["src"][:40]
        kind, content = image["src"].split(";base64,", 1)
        raw = base64.b64decode(content)
        if kind == "data:image/jpeg":
            assert raw[:2] == b"\xff\xd8"
        else:
            assert kind == "data:image/svg+xml" and raw.rstrip().endswith(b"</svg>")
            assert b"http" not in re.sub(rb'xmlns(:\w+)?="[^"]*"|"-//W3C[^>]*>', b"", raw)


def test_the_same_outputs_give_the_same_bytes(rich: tuple[Path, Path]) -> None:
    place = make(*rich)
    before = {name: (place / name).read_bytes() for name in (*FILES, "manifest.json")}
    shutil.rmtree(place)
    assert make(*rich) == place
    assert {name: (place / name).read_bytes() for name in before} == before
    assert make(*rich, title="Another") != place


def test_credits_lie_beside_the_page(rich: tuple[Path, Path], tmp_path: Path) -> None:
    place = make(*rich)
    thanks, bib = (
        (place / "ACKNOWLEDGEMENTS.txt").read_text(),
        (place / "references.bib").read_text(),
    )
    assert "Alfred P. Sloan" in " ".join(thanks.split())
    assert max(map(len, thanks.splitlines())) <= 80
    keys = re.findall(r"^@\w+\{(\w+),$", bib, re.M)
    assert keys == sorted(set(keys)) and {"Willett2013", "Jiang2017", "Abazajian2009"} <= set(keys)
    cited = set(re.findall(r"[A-Z][A-Za-z]+\d{4}", thanks))
    assert cited <= set(keys)
    _, toml = rich
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(toml.read_text().replace('"gz2"', '"gz9"'))
    with pytest.raises(InputError, match="gz9"):
        survey.load(wrong)


def test_every_reference_is_well_formed_and_used() -> None:
    known = [*credit.DATA.values(), *credit.SOFTWARE.values(), *credit.WITH_MODEL.values()]
    assert {key for one in known for key in one.cite} == set(references.ENTRIES)
    for key, entry in references.ENTRIES.items():
        assert entry.startswith("@") and f"{{{key},\n" in entry
        assert entry.count("{") == entry.count("}")
        assert "title = {{" in entry
    assert set(itertools.chain(*credit.BY_ARCHIVE.values())) <= set(credit.DATA)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, for MLflow to mend
def test_the_tracker_gets_the_page(
    rich: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from galpipe.tracking import MlflowTracker

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root, toml = rich
    shutil.copytree(root, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "store" / "report", ignore_errors=True)
    workspace, chosen = Workspace.open(tmp_path / "w"), survey.load(toml)
    tracker = MlflowTracker(tmp_path / "w", "rich", "mark")
    refs = {
        name: Ref(name, digest)
        for name, digest in releases.record(workspace, chosen.name, None)["refs"].items()
    }
    inputs = Inputs(
        refs["sample"], refs["cutouts"], refs["stamps"], refs["model"], refs["embeddings"],
        refs["clusters"], refs["assignments"], refs["evaluation"], refs["labels"],
    )  # fmt: skip
    about = About("sky", "", "r1", "folder", chosen.archive.bands)
    context = Context(workspace, tracker=tracker)
    place = workspace.place(report(context, about, chosen.evaluate, chosen.publish, inputs))
    ((kind, run_id),) = tracker.opened
    run = tracker._connect().get_run(run_id)
    assert kind == "evaluation" and run.data.tags["report"] == (place / "report.html").as_uri()
    kept = list((tmp_path / "w" / "mlflow").rglob("report.html"))
    assert [path.read_bytes() for path in kept] == [(place / "report.html").read_bytes()]


def bare(folder: Path, objects: int, extra: str = "") -> tuple[Path, Path]:
    """A survey without network, truth, positions and title."""
    sky.draw(folder / "sky", objects, positions=False)
    toml = sky.survey_file(folder / "sky.toml", folder / "sky", extra=extra)
    text = toml.read_text().replace('truth = { classes = "kind" }', "")
    toml.write_text(text.replace('ra = "ra"\ndec = "dec"\n', ""))
    return folder / "w", toml


def test_a_survey_without_network_truth_or_positions(tmp_path: Path) -> None:
    root, toml = bare(tmp_path, 90)
    run_chain(toml, root)
    page = Page(make(root, toml) / "report.html")
    plain = [name for name in SECTIONS if name != "probe"]  # there are no classes to probe
    assert [name for name in page.ids if name in SECTIONS] == plain
    for word in (
        "No network was trained", "has no coordinates", "names no true classes",
        "has no network that draws", "Nothing was trained", "does not say where the images come",
    ):  # fmt: skip
        assert word in page.text, word
    assert "Paszke2019" not in page.content and "Spindler2021" not in page.content


def test_one_object_has_a_report(tmp_path: Path) -> None:
    root, toml = bare(tmp_path, 1)
    run_chain(toml, root)
    page = Page(make(root, toml) / "report.html")
    assert "1 object was taken" in page.text and "1 object, 100.0 %" in page.text
    assert "Too few labelled objects for a map" in page.text


def test_a_survey_of_blank_noise_has_no_clusters(tmp_path: Path) -> None:
    root, toml = bare(tmp_path, 5)
    rng = np.random.default_rng(0)
    for path in sorted((tmp_path / "sky" / "images").glob("*.png")):
        noise = rng.normal(100, 3, (sky.SIZE, sky.SIZE, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
    run_chain(toml, root)
    page = Page(make(root, toml) / "report.html")
    plain = [name for name in SECTIONS if name != "probe"]  # there are no classes to probe
    assert [name for name in page.ids if name in SECTIONS] == plain
    assert "There are no clusters" in page.text and "NO_SOURCE" in page.text


def test_bands_become_colours_by_wavelength() -> None:
    assert pictures.red_to_blue(("g", "r", "i")) == (2, 1, 0)
    assert pictures.red_to_blue(("i", "r", "g")) == (0, 1, 2)
    assert pictures.red_to_blue(("F606W", "F160W", "F814W")) == (1, 2, 0)
    assert pictures.red_to_blue(("x", "r", "g")) == (0, 1, 2)
    assert pictures.red_to_blue(("r",)) is None


def test_a_stretch_keeps_colours_and_order() -> None:
    red = np.array([4.0, 2.0, 1.0], np.float32)[:, None, None]
    ramp = red * np.geomspace(0.02, 20, 50, dtype=np.float32)
    shown = pictures.stretched(ramp, (0, 1, 2), np.ones(3, np.float32), 0.1)[0].astype(float)
    assert (np.diff(shown.sum(axis=1)) >= -1).all()
    bright = shown[30:]  # far above the pedestal of the sky
    assert np.allclose(bright[:, 0] / bright[:, 2], 4, rtol=0.15)
    assert shown.max() == 255


def test_a_window_is_the_middle_of_a_cutout() -> None:
    cutout = np.arange(2 * 7 * 9, dtype=np.float32).reshape(2, 7, 9)
    inner = pictures.window(cutout, 3)
    assert np.array_equal(inner, cutout[:, 2:5, 3:6])
    outer = pictures.window(cutout, 11)
    assert np.array_equal(outer[:, 2:9, 1:10], cutout) and np.isnan(outer).sum() == 2 * (121 - 63)


def test_fractions_are_binomial_and_add_up() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, 4000)
    cluster = (rng.uniform(0, 1, 4000) < values).astype(np.int64)
    cluster[:100] = -1
    found = fractions.binned(values, cluster, 2)
    assert found is not None and found.count.sum() == 3900 and len(found.count) == 8
    assert np.allclose(found.fraction.sum(axis=0), 1)
    assert np.abs(found.fraction[1] - found.middle).max() < 0.08
    assert (found.low < found.fraction).all() and (found.fraction < found.high).all()
    low, high = fractions.wilson(np.array([0.0, 30.0]), np.array([10, 100]))
    assert low[0] == 0 and high[0] == pytest.approx(1 / 11)  # z^2 / (n + z^2)
    assert high[1] - low[1] == pytest.approx(2 * np.sqrt(0.3 * 0.7 / 100), rel=0.02)
    assert fractions.binned(np.full(500, 3.0), np.zeros(500, np.int64), 2) is None
    assert fractions.binned(np.full(500, np.nan), np.zeros(500, np.int64), 2) is None


def test_the_map_keeps_planted_groups_apart_and_is_the_same_again() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 200)
    vectors = np.eye(6)[kind] * 8 + rng.normal(size=(200, 6))
    places, how = latent.flattened(vectors, 0)
    assert how.startswith("t-SNE")
    near = ((places[:, None] - places[None]) ** 2).sum(axis=2).argsort(axis=1)[:, 1:6]
    assert (kind[near] == kind[:, None]).mean() > 0.97
    assert np.array_equal(places, latent.flattened(vectors, 0)[0])
    for few in (1, 2, 5):
        assert latent.flattened(vectors[:few], 0)[0].shape == (few, 2)


def test_positions_are_projected_truly() -> None:
    from astropy import units
    from astropy.coordinates import SkyCoord

    rng = np.random.default_rng(0)
    ra, dec = rng.uniform(0, 360, 40), rng.uniform(86, 89, 40)
    x, y = charts._gnomonic(ra, dec)
    points = SkyCoord(ra * units.deg, dec * units.deg)
    radius = np.degrees(np.arctan(np.radians(np.hypot(x[:, None] - x[0], y[:, None] - y[0]))))
    assert np.allclose(radius[:, 0], points.separation(points[0]).deg, rtol=0.02, atol=0.01)


def test_magnitudes_are_found_and_sentinels_left_out() -> None:
    table = pa.table(
        {
            "input_petroMagErr_r": [0.1, 0.2, 0.1],
            "input_image": [15.0, 16.0, 17.0],
            "input_modelMag_i": [15.0, 16.0, 17.0],
            "input_petroMag_r": [15.5, -9999.0, 16.5],
        }
    )
    found = _magnitude(table)
    assert found is not None and found.name == "petroMag_r"
    assert np.isnan(found.values[1]) and found.values[2] == 16.5
    assert _magnitude(table.select([0, 1])) is None


@pytest.fixture(params=[1280, 1920, 400])
def browser(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, Browser]]:
    opened = Browser(tmp_path / "browser", request.param)
    yield request.param, opened
    opened.close()


@pytest.mark.browser
def test_a_browser_shows_it_whole(browser: tuple[int, Browser], rich: tuple[Path, Path]) -> None:
    width, page = browser
    page.open(make(*rich) / "report.html")
    assert page.value("innerWidth") == width
    assert page.value("document.documentElement.scrollWidth") <= width
    unseen = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"
    assert page.value("document.images.length") > 50 and page.value(unseen) == 0
    beyond = f"""[...document.querySelectorAll('main *, header *')].filter(e =>
        !e.closest('.scroll') && e.getBoundingClientRect().right > {width} + 1).length"""
    assert page.value(beyond) == 0
    kinds = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
    assert [e["params"] for e in page.events if e.get("method") in kinds] == []
    asked = [
        event["params"]["request"]["url"]
        for event in page.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


@pytest.mark.browser
def test_a_button_copies_the_references(
    browser: tuple[int, Browser], rich: tuple[Path, Path]
) -> None:
    _, page = browser
    page.open(make(*rich) / "report.html")
    copied = """(async () => { let got = null;
        navigator.clipboard.writeText = async text => { got = text; };
        document.querySelector('[data-copy=bibtex]').click();
        await new Promise(done => setTimeout(done, 100)); return got; })()"""
    assert page.value(copied) == (make(*rich) / "references.bib").read_text()


@pytest.mark.parametrize(
    ("model", "facts", "who", "what"),
    [
        ({"kind": "contrastive", "measured": ["gini"]}, {"measured": {}},
         "A contrastive network with 1,200 parameters", "labels, with their measured columns"),
        ({"kind": "contrastive", "measured": []}, {}, "A contrastive network", "without labels"),
        ({"kind": "autoencoder", "latent": 8}, {}, "An autoencoder with 8", "without labels"),
        ({"kind": "regression"}, {"value": {}}, "A regression network", "the table says"),
        ({"kind": "classifier", "classes": "kind"}, {"class": {}}, "A classifier", "column 'kind'"),
    ],
)  # fmt: skip
def test_the_page_says_what_a_network_learnt_from(
    model: dict[str, Any], facts: dict[str, Any], who: str, what: str
) -> None:
    network = {"model": model, "facts": facts, "parameters": 1200}
    assert classification.network_words(network).startswith(who)
    assert what in classification.what_it_learnt(network)
