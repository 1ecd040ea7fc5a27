"""The stage `report`: reads a release, draws its figures, and writes the page and its credits."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from galpipe.catalogue import credit
from galpipe.catalogue.report import page, sections
from galpipe.catalogue.report.release import About, Inputs, read_release
from galpipe.catalogue.spec import Evaluation, Publication
from galpipe.stages import Context
from galpipe.workspace import Ref, address, write_bytes

VERSION = 1
PAGE, ACKNOWLEDGEMENTS, REFERENCES = "report.html", "ACKNOWLEDGEMENTS.txt", "references.bib"
FILES = (PAGE, ACKNOWLEDGEMENTS, REFERENCES)


def report(
    context: Context, about: About, spec: Evaluation, publication: Publication, inputs: Inputs
) -> Ref:
    """Write the report of a release; returns at once where it is done.

    The output holds report.html (self-contained, under 10 MB), ACKNOWLEDGEMENTS.txt and
    references.bib.  The same outputs give the same bytes.  The run of the evaluation in the tracker
    gets the page and says where it lies.
    """
    settings = {
        "about": asdict(about),
        "evaluate": spec,
        "credit": publication.credit,
        "design": page.design(),
    }
    workspace = context.workspace
    ref = address("report", VERSION, settings, inputs.given())
    if workspace.manifest(ref) is not None:
        return ref
    data = credit.data_credits(publication.credit, about.archive)
    software = credit.software_credits(inputs.model is not None)
    context.progress.start("report", 1, "page")
    release = read_release(workspace, inputs, spec.truth)
    values = sections.gathered(workspace, about, spec, release, inputs)
    texts = {
        ACKNOWLEDGEMENTS: credit.acknowledgements(data, software),
        REFERENCES: credit.bibtex([*data, *software]),
    }
    values |= {
        "credits": data,
        "not_named": credit.NOT_NAMED,
        "software": credit.software_sentence(software),
        "bibtex": texts[REFERENCES],
    }
    place = workspace.begin(ref)
    texts[PAGE] = page.render(values)
    for name, text in texts.items():
        write_bytes(place / name, text.encode())
    _track(context, inputs.evaluation, place / PAGE, about)
    context.progress.advance()
    context.progress.finish()
    return workspace.commit(ref, settings, inputs.given(), files=list(FILES))


def _track(context: Context, evaluation: Ref, path: Path, about: About) -> None:
    """Put the page with the run of the evaluation, and say in the run where it lies."""
    name = f"evaluation {evaluation.digest[:8]}"
    address_: str = path.absolute().as_uri()
    note = (
        f"Report of {about.survey} {about.release}: open `{PAGE}` under Artifacts, "
        f"or <{address_}> on the machine that made it."
    )
    with context.tracker.run("evaluation", name, evaluation.digest) as run:
        run.file(path)
        run.tags({"report": address_, "mlflow.note.content": note})
