"""Train, validation and test by a salted hash, so that a growing catalogue moves nobody.

The hash is of the HEALPix cell where the object has a position, so that the same sky is never on
both sides, and of the identifier where it has none.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from galpipe.errors import InputError
from galpipe.sample.spec import Split

NAMES = ("train", "validation", "test")


def assign_split(
    spec: Split,
    ids: NDArray[np.int64] | list[str],
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
) -> NDArray[np.int8]:
    """The split of each object: 0 train, 1 validation, 2 test.

    `ids`: int64 array or list of strings; `ra`, `dec`: (objects,) in degrees, NaN without position.
    """
    if spec.validation + spec.test >= 1:
        raise InputError(
            f"sample.split: validation {spec.validation} and test {spec.test} leave nothing to "
            "train on; make their sum less than 1."
        )
    fraction = uniform(f"{spec.salt}/id", ids)
    placed = np.isfinite(ra) & np.isfinite(dec)
    if placed.any():
        cells = healpix_cells(ra[placed], dec[placed], spec.nside)
        fraction[placed] = uniform(f"{spec.salt}/cell/{spec.nside}", cells)
    split = np.zeros(len(fraction), np.int8)
    split[fraction < spec.validation + spec.test] = 1
    split[fraction < spec.test] = 2
    return split


def healpix_cells(
    ra: NDArray[np.float64], dec: NDArray[np.float64], nside: int
) -> NDArray[np.int64]:
    """The HEALPix cell (ring order; Gorski et al. 2005) of positions in degrees."""
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    cells = lonlat_to_healpix(ra * units.deg, dec * units.deg, nside, order="ring")
    return np.asarray(cells, np.int64)


def uniform(salt: str, keys: NDArray[np.int64] | list[str]) -> NDArray[np.float64]:
    """A number in [0, 1) for each key, the same on every machine and in every company.

    Integers go through the finaliser of SplitMix64 (Steele, Lea & Flood 2014), seeded by the salt;
    strings through BLAKE2b keyed by it.
    """
    key = hashlib.sha256(salt.encode()).digest()
    if isinstance(keys, list):
        hashes = b"".join(
            hashlib.blake2b(k.encode(), digest_size=8, key=key).digest() for k in keys
        )
        mixed = np.frombuffer(hashes, "<u8").astype(np.uint64)
    else:
        seed = np.uint64(int.from_bytes(key[:8], "little"))
        mixed = _splitmix(_splitmix(keys.astype(np.int64).view(np.uint64) ^ seed))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64: every input bit reaches every output bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
