"""Whom a catalogue owes its data and its methods to: acknowledgements and BibTeX.

Bibliographic facts that are not certain are left out of an entry rather than guessed.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from galpipe.catalogue.references import ENTRIES


@dataclass(frozen=True)
class Credit:
    """What a source of data or a piece of software asks of those who publish with it."""

    name: str
    text: str  # the acknowledgement, in the source's own words where it gives some
    cite: tuple[str, ...] = ()  # keys of references.ENTRIES


_SDSS_I_II = (
    "Funding for the SDSS and SDSS-II has been provided by the Alfred P. Sloan Foundation, the "
    "Participating Institutions, the National Science Foundation, the U.S. Department of Energy, "
    "the National Aeronautics and Space Administration, the Japanese Monbukagakusho, the Max "
    "Planck Society, and the Higher Education Funding Council for England. The SDSS Web Site is "
    "http://www.sdss.org/. The SDSS is managed by the Astrophysical Research Consortium for the "
    "Participating Institutions. The Participating Institutions are the American Museum of Natural "
    "History, Astrophysical Institute Potsdam, University of Basel, University of Cambridge, Case "
    "Western Reserve University, University of Chicago, Drexel University, Fermilab, the Institute "
    "for Advanced Study, the Japan Participation Group, Johns Hopkins University, the Joint "
    "Institute for Nuclear Astrophysics, the Kavli Institute for Particle Astrophysics and "
    "Cosmology, the Korean Scientist Group, the Chinese Academy of Sciences (LAMOST), Los Alamos "
    "National Laboratory, the Max-Planck-Institute for Astronomy (MPIA), the Max-Planck-Institute "
    "for Astrophysics (MPA), New Mexico State University, Ohio State University, University of "
    "Pittsburgh, University of Portsmouth, Princeton University, the United States Naval "
    "Observatory, and the University of Washington."
)
_SDSS_IV = (
    "Funding for the Sloan Digital Sky Survey IV has been provided by the Alfred P. Sloan "
    "Foundation, the U.S. Department of Energy Office of Science, and the Participating "
    "Institutions. SDSS-IV acknowledges support and resources from the Center for High "
    "Performance Computing at the University of Utah. The SDSS website is www.sdss4.org. SDSS-IV "
    "is managed by the Astrophysical Research Consortium for the Participating Institutions of the "
    "SDSS Collaboration including the Brazilian Participation Group, the Carnegie Institution for "
    "Science, Carnegie Mellon University, Center for Astrophysics | Harvard & Smithsonian, the "
    "Chilean Participation Group, the French Participation Group, Instituto de Astrofísica de "
    "Canarias, The Johns Hopkins University, Kavli Institute for the Physics and Mathematics of "
    "the Universe (IPMU) / University of Tokyo, the Korean Participation Group, Lawrence Berkeley "
    "National Laboratory, Leibniz Institut für Astrophysik Potsdam (AIP), Max-Planck-Institut für "
    "Astronomie (MPIA Heidelberg), Max-Planck-Institut für Astrophysik (MPA Garching), "
    "Max-Planck-Institut für Extraterrestrische Physik (MPE), National Astronomical Observatories "
    "of China, New Mexico State University, New York University, University of Notre Dame, "
    "Observatório Nacional / MCTI, The Ohio State University, Pennsylvania State University, "
    "Shanghai Astronomical Observatory, United Kingdom Participation Group, Universidad Nacional "
    "Autónoma de México, University of Arizona, University of Colorado Boulder, University of "
    "Oxford, University of Portsmouth, University of Utah, University of Virginia, University of "
    "Washington, University of Wisconsin, Vanderbilt University, and Yale University."
)
_HST = (
    "Based on observations made with the NASA/ESA Hubble Space Telescope, obtained from the data "
    "archive at the Space Telescope Science Institute. STScI is operated by the Association of "
    "Universities for Research in Astronomy, Inc. under NASA contract NAS 5-26555."
)

DATA: dict[str, Credit] = {
    "sky": Credit(
        "galpipe's simulated sky",
        "The images are of galpipe's own simulated sky, drawn with GalSim (Rowe et al. 2015). "
        "They are no observations.",
        ("Rowe2015",),
    ),
    "sdss-dr17": Credit(
        "SDSS DR17", _SDSS_IV, ("York2000", "Gunn2006", "Blanton2017", "Abdurrouf2022")
    ),
    "sdss-dr7": Credit("SDSS DR7", _SDSS_I_II, ("York2000", "Gunn2006", "Abazajian2009")),
    "sdss-stripe82": Credit(
        "SDSS Stripe 82 coadd",
        "Coadded images of SDSS Stripe 82 are described by Annis et al. (2014).",
        ("Annis2014",),
    ),
    "gz2": Credit(
        "Galaxy Zoo 2",
        "Visual classifications are those of the volunteers of Galaxy Zoo 2 (Willett et al. 2013), "
        "with the redshift debiasing of Hart et al. (2016).",
        ("Lintott2008", "Willett2013", "Hart2016"),
    ),
    "gz-hubble": Credit(
        "Galaxy Zoo: Hubble",
        "Visual classifications are those of the volunteers of Galaxy Zoo: Hubble "
        "(Willett et al. 2017).",
        ("Willett2017",),
    ),
    "efigi": Credit(
        "EFIGI",
        "Morphological types are those of the EFIGI catalogue (Baillard et al. 2011).",
        ("Baillard2011",),
    ),
    "hst": Credit("Hubble Space Telescope", _HST),
    "cosmos": Credit(
        "COSMOS",
        "COSMOS images and catalogues are described by Scoville et al. (2007), Koekemoer et al. "
        "(2007) and Leauthaud et al. (2007); the postage stamps by Mandelbaum et al. (2012).",
        ("Scoville2007", "Koekemoer2007", "Leauthaud2007", "Mandelbaum2012", "Rowe2015"),
    ),
    "goods": Credit(
        "GOODS", "GOODS is described by Giavalisco et al. (2004).", ("Giavalisco2004",)
    ),
}
# What the data of an archive owe, where the survey file says nothing.
BY_ARCHIVE: dict[str, tuple[str, ...]] = {"sky": ("sky",), "sdss": ("sdss-dr17",)}

SOFTWARE: dict[str, Credit] = {
    "numpy": Credit("NumPy", "", ("Harris2020",)),
    "scipy": Credit("SciPy", "", ("Virtanen2020",)),
    "astropy": Credit("Astropy", "", ("Astropy2013", "Astropy2018", "Astropy2022")),
    "matplotlib": Credit("Matplotlib", "", ("Hunter2007",)),
    "sep": Credit("SEP, after SExtractor", "", ("Barbary2016", "Bertin1996")),
    "scikit-learn": Credit("scikit-learn", "", ("Pedregosa2011",)),
    "zarr": Credit("Zarr", "", ("Zarr",)),
    "dask": Credit("Dask", "", ("Rocklin2015",)),
    "prefect": Credit("Prefect", "", ("Prefect",)),
    "mlflow": Credit("MLflow", "", ("Zaharia2018",)),
    "morphology": Credit("CAS, Gini and M20", "", ("Conselice2003", "Lotz2004")),
}
WITH_MODEL: dict[str, Credit] = {
    "torch": Credit("PyTorch", "", ("Paszke2019",)),
    "vade": Credit("VaDE", "", ("Jiang2017",)),
    "astrovader": Credit("AstroVaDEr", "", ("Spindler2021",)),
}


def data_credits(chosen: tuple[str, ...] | None, archive: str) -> list[Credit]:
    """Credits of the data: the keys a survey names, or (None) those of its kind of archive."""
    keys = BY_ARCHIVE.get(archive, ()) if chosen is None else chosen
    return [DATA[key] for key in keys]


def software_credits(model: bool) -> list[Credit]:
    """Credits of the software and methods a run rests on; with or without a network."""
    return [*SOFTWARE.values(), *(WITH_MODEL.values() if model else ())]


def bibtex(credits: list[Credit]) -> str:
    """All entries the credits cite, each once, in the order of their keys."""
    keys = sorted({key for credit in credits for key in credit.cite})
    return "\n\n".join(ENTRIES[key] for key in keys) + "\n"


def software_sentence(credits: list[Credit]) -> str:
    """One sentence that names the software with the keys of its references."""
    named = [f"{credit.name} ({', '.join(credit.cite)})" for credit in credits]
    return "This catalogue was made with galpipe, which rests on " + "; ".join(named) + "."


def acknowledgements(data: list[Credit], software: list[Credit]) -> str:
    """The text of ACKNOWLEDGEMENTS.txt: 80 columns, a paragraph for each source."""
    paragraphs = [f"{credit.name}. {credit.text}" for credit in data] or [NOT_NAMED]
    paragraphs.append(software_sentence(software))
    paragraphs.append("BibTeX entries of the references are in references.bib.")
    return "\n\n".join(textwrap.fill(text, 80) for text in paragraphs) + "\n"


NOT_NAMED = (
    "The survey file does not say where the images come from. Acknowledge their source, and name "
    "it in the survey file: [publish] credit = [...], of " + ", ".join(sorted(DATA)) + "."
)
