"""BibTeX entries of the papers and programs that `galpipe.catalogue.credit` cites, by key."""

from __future__ import annotations


def _entry(kind: str, key: str, **fields: str) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return f"@{kind}{{{key},\n" + "\n".join(lines) + "\n}"


def _article(
    key: str, author: str, title: str, journal: str, year: int, volume: str, pages: str, doi: str
) -> str:
    return _entry(
        "article", key, author=author, title=f"{{{title}}}", journal=journal, year=str(year),
        volume=volume, pages=pages, doi=doi,
    )  # fmt: skip


MNRAS = "Monthly Notices of the Royal Astronomical Society"
APJS = "The Astrophysical Journal Supplement Series"
APJ = "The Astrophysical Journal"
AJ = "The Astronomical Journal"
AA = "Astronomy and Astrophysics"
AAS = "Astronomy and Astrophysics Supplement Series"

_ALL = {
    "York2000": _article(
        "York2000", "York, Donald G. and others",
        "The Sloan Digital Sky Survey: Technical Summary",
        AJ, 2000, "120", "1579--1587", "10.1086/301513",
    ),
    "Gunn2006": _article(
        "Gunn2006", "Gunn, James E. and others",
        "The 2.5 m Telescope of the Sloan Digital Sky Survey",
        AJ, 2006, "131", "2332--2359", "10.1086/500975",
    ),
    "Abazajian2009": _article(
        "Abazajian2009", "Abazajian, Kevork N. and others",
        "The Seventh Data Release of the Sloan Digital Sky Survey",
        APJS, 2009, "182", "543--558", "10.1088/0067-0049/182/2/543",
    ),
    "Blanton2017": _article(
        "Blanton2017", "Blanton, Michael R. and others",
        "Sloan Digital Sky Survey IV: Mapping the Milky Way, Nearby Galaxies, and the Distant "
        "Universe",
        AJ, 2017, "154", "28", "10.3847/1538-3881/aa7567",
    ),
    "Abdurrouf2022": _article(
        "Abdurrouf2022", "{Abdurro'uf} and others",
        "The Seventeenth Data Release of the Sloan Digital Sky Surveys: Complete Release of MaNGA, "
        "MaStar, and APOGEE-2 Data",
        APJS, 2022, "259", "35", "10.3847/1538-4365/ac4414",
    ),
    "Annis2014": _article(
        "Annis2014", "Annis, James and others",
        "The Sloan Digital Sky Survey Coadd: 275 deg$^2$ of Deep Sloan Digital Sky Survey Imaging "
        "on Stripe 82",
        APJ, 2014, "794", "120", "10.1088/0004-637X/794/2/120",
    ),
    "Lintott2008": _article(
        "Lintott2008", "Lintott, Chris J. and others",
        "Galaxy Zoo: morphologies derived from visual inspection of galaxies from the Sloan "
        "Digital Sky Survey",
        MNRAS, 2008, "389", "1179--1189", "10.1111/j.1365-2966.2008.13689.x",
    ),
    "Willett2013": _article(
        "Willett2013", "Willett, Kyle W. and others",
        "Galaxy Zoo 2: detailed morphological classifications for 304 122 galaxies from the Sloan "
        "Digital Sky Survey",
        MNRAS, 2013, "435", "2835--2860", "10.1093/mnras/stt1458",
    ),
    "Hart2016": _article(
        "Hart2016", "Hart, Ross E. and others",
        "Galaxy Zoo: comparing the demographics of spiral arm number and a new method for "
        "correcting redshift bias",
        MNRAS, 2016, "461", "3663--3682", "10.1093/mnras/stw1588",
    ),
    "Willett2017": _article(
        "Willett2017", "Willett, Kyle W. and others",
        "Galaxy Zoo: morphological classifications for 120 000 galaxies in HST legacy imaging",
        MNRAS, 2017, "464", "4176--4203", "10.1093/mnras/stw2568",
    ),
    "Baillard2011": _article(
        "Baillard2011", "Baillard, A. and others",
        "The EFIGI catalogue of 4458 nearby galaxies with detailed morphology",
        AA, 2011, "532", "A74", "10.1051/0004-6361/201016423",
    ),
    "Scoville2007": _article(
        "Scoville2007", "Scoville, N. and others",
        "The Cosmic Evolution Survey (COSMOS): Overview",
        APJS, 2007, "172", "1--8", "10.1086/516585",
    ),
    "Koekemoer2007": _article(
        "Koekemoer2007", "Koekemoer, A. M. and others",
        "The COSMOS Survey: Hubble Space Telescope Advanced Camera for Surveys Observations and "
        "Data Processing",
        APJS, 2007, "172", "196--202", "10.1086/520086",
    ),
    "Leauthaud2007": _article(
        "Leauthaud2007", "Leauthaud, Alexie and others",
        "Weak Gravitational Lensing with COSMOS: Galaxy Selection and Shape Measurements",
        APJS, 2007, "172", "219--238", "10.1086/516598",
    ),
    "Mandelbaum2012": _article(
        "Mandelbaum2012", "Mandelbaum, Rachel and others",
        "Precision simulation of ground-based lensing data using observations from space",
        MNRAS, 2012, "420", "1518--1540", "10.1111/j.1365-2966.2011.20138.x",
    ),
    "Giavalisco2004": _article(
        "Giavalisco2004", "Giavalisco, M. and others",
        "The Great Observatories Origins Deep Survey: Initial Results from Optical and "
        "Near-Infrared Imaging",
        APJ, 2004, "600", "L93--L98", "10.1086/379232",
    ),
    "Rowe2015": _article(
        "Rowe2015", "Rowe, B. T. P. and others",
        "GALSIM: The modular galaxy image simulation toolkit",
        "Astronomy and Computing", 2015, "10", "121--150", "10.1016/j.ascom.2015.02.002",
    ),
    "Conselice2003": _article(
        "Conselice2003", "Conselice, Christopher J.",
        "The Relationship between Stellar Light Distributions of Galaxies and Their Formation "
        "Histories",
        APJS, 2003, "147", "1--28", "10.1086/375001",
    ),
    "Lotz2004": _article(
        "Lotz2004", "Lotz, Jennifer M. and Primack, Joel and Madau, Piero",
        "A New Nonparametric Approach to Galaxy Morphological Classification",
        AJ, 2004, "128", "163--182", "10.1086/421849",
    ),
    "Bertin1996": _article(
        "Bertin1996", "Bertin, E. and Arnouts, S.",
        "SExtractor: Software for source extraction",
        AAS, 1996, "117", "393--404", "10.1051/aas:1996164",
    ),
    "Barbary2016": _article(
        "Barbary2016", "Barbary, Kyle", "SEP: Source Extractor as a library",
        "Journal of Open Source Software", 2016, "1", "58", "10.21105/joss.00058",
    ),
    "Harris2020": _article(
        "Harris2020", "Harris, Charles R. and others", "Array programming with NumPy",
        "Nature", 2020, "585", "357--362", "10.1038/s41586-020-2649-2",
    ),
    "Virtanen2020": _article(
        "Virtanen2020", "Virtanen, Pauli and others",
        "SciPy 1.0: fundamental algorithms for scientific computing in Python",
        "Nature Methods", 2020, "17", "261--272", "10.1038/s41592-019-0686-2",
    ),
    "Hunter2007": _article(
        "Hunter2007", "Hunter, John D.", "Matplotlib: A 2D Graphics Environment",
        "Computing in Science and Engineering", 2007, "9", "90--95", "10.1109/MCSE.2007.55",
    ),
    "Astropy2013": _article(
        "Astropy2013", "{Astropy Collaboration}",
        "Astropy: A community Python package for astronomy",
        AA, 2013, "558", "A33", "10.1051/0004-6361/201322068",
    ),
    "Astropy2018": _article(
        "Astropy2018", "{Astropy Collaboration}",
        "The Astropy Project: Building an Open-science Project and Status of the v2.0 Core Package",
        AJ, 2018, "156", "123", "10.3847/1538-3881/aabc4f",
    ),
    "Astropy2022": _article(
        "Astropy2022", "{Astropy Collaboration}",
        "The Astropy Project: Sustaining and Growing a Community-oriented Open-source Project and "
        "the Latest Major Release (v5.0) of the Core Package",
        APJ, 2022, "935", "167", "10.3847/1538-4357/ac7c74",
    ),
    "Spindler2021": _article(
        "Spindler2021", "Spindler, Ashley and Geach, James E. and Smith, Michael J.",
        "AstroVaDEr: astronomical variational deep embedder for unsupervised morphological "
        "classification of galaxies and synthetic image generation",
        MNRAS, 2021, "502", "985--1007", "10.1093/mnras/staa3670",
    ),
    "Pedregosa2011": _entry(
        "article", "Pedregosa2011", author="Pedregosa, F. and others",
        title="{Scikit-learn: Machine Learning in Python}",
        journal="Journal of Machine Learning Research", year="2011", volume="12",
        pages="2825--2830",
    ),
    "Jiang2017": _entry(
        "inproceedings", "Jiang2017",
        author="Jiang, Zhuxi and Zheng, Yin and Tan, Huachun and Tang, Bangsheng and Zhou, "
        "Hanning",
        title="{Variational Deep Embedding: An Unsupervised and Generative Approach to Clustering}",
        booktitle="Proceedings of the Twenty-Sixth International Joint Conference on Artificial "
        "Intelligence",
        year="2017", pages="1965--1972", doi="10.24963/ijcai.2017/273",
    ),
    "Paszke2019": _entry(
        "inproceedings", "Paszke2019", author="Paszke, Adam and others",
        title="{PyTorch: An Imperative Style, High-Performance Deep Learning Library}",
        booktitle="Advances in Neural Information Processing Systems", volume="32", year="2019",
    ),
    "Rocklin2015": _entry(
        "inproceedings", "Rocklin2015", author="Rocklin, Matthew",
        title="{Dask: Parallel Computation with Blocked algorithms and Task Scheduling}",
        booktitle="Proceedings of the 14th Python in Science Conference", year="2015",
        doi="10.25080/Majora-7b98e3ed-013",
    ),
    "Zaharia2018": _entry(
        "article", "Zaharia2018", author="Zaharia, Matei and others",
        title="{Accelerating the Machine Learning Lifecycle with MLflow}",
        journal="IEEE Data Engineering Bulletin", year="2018", volume="41", pages="39--45",
    ),
    "Zarr": _entry(
        "misc", "Zarr", author="{Zarr Developers}", title="{Zarr}", url="https://zarr.dev"
    ),
    "Prefect": _entry(
        "misc", "Prefect", author="{Prefect Technologies}", title="{Prefect}",
        url="https://www.prefect.io",
    ),
}  # fmt: skip
ENTRIES: dict[str, str] = dict(sorted(_ALL.items()))
