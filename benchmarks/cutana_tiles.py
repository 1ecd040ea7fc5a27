"""What `benchmarks.cutana` cuts: the frames of the simulated sky, unpacked, and its catalogue.

FOLDER/tiles/...        the frames as FITS, where the archive has them, less `.bz2`
FOLDER/masks/...        their fpM files, as the archive serves them
FOLDER/packed/...       a link to the drawn sky: the same frames as the archive serves them
FOLDER/named/...        links to the tiles by names of which Cutana can tell the bands
FOLDER/objects.parquet  objID, ra, dec, run, camcol, field
"""

from __future__ import annotations

import bz2
from pathlib import Path

import pyarrow.parquet as pq

SIDE = 63  # pixels of a cutout
# Cutana tells bands by Euclid's names alone.
NAMES = {"g": "NIR-Y", "r": "VIS", "i": "NIR-H"}


def prepare(folder: Path, galaxies: int) -> int:
    """Draw the sky where it is not kept, and lay out its tiles; returns how many objects it has.

    A folder that was laid out before is taken as it is.
    """
    if (folder / "objects.parquet").exists():
        return int(pq.read_metadata(folder / "objects.parquet").num_rows)
    from galpipe.sky.cache import cached  # both sides import SIDE, and draw nothing
    from galpipe.sky.photo import Photo
    from galpipe.sky.spec import SkySpec

    sky = cached(SkySpec(galaxies=galaxies, seed=1))
    made = Photo(sky)
    (folder / "named").mkdir(parents=True)
    (folder / "packed").symlink_to(sky / "sas")
    for packed in sorted((sky / "sas").rglob("frame-*.fits.bz2")):
        tile = (folder / "tiles" / packed.relative_to(sky / "sas")).with_suffix("")
        tile.parent.mkdir(parents=True, exist_ok=True)
        tile.write_bytes(bz2.decompress(packed.read_bytes()))
        _, band, run, camcol, field = tile.stem.split("-")
        mask = f"fpM-{run}-{band}{camcol}-{field}.fit.gz"
        content = made.file(int(run), int(camcol), mask)
        assert content is not None, "every frame of the sky has a mask"
        beside = folder / "masks" / f"dr17/eboss/photo/redux/301/{int(run)}/objcs/{camcol}" / mask
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        (folder / "named" / f"tile_{run}_{camcol}_{field}_{NAMES[band]}.fits").symlink_to(tile)
    objects = pq.read_table(
        sky / "tables" / "PhotoObjAll.parquet",
        columns=["objID", "ra", "dec", "run", "camcol", "field"],
    )
    pq.write_table(objects, folder / "objects.parquet")
    return len(objects)
