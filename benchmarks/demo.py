"""What the demo's classes are worth beside principal components and a mixture of the raw stamps.

    python -m benchmarks.demo WORKSPACE [SURVEY [RELEASE]]

For a workspace in which `galpipe demo` has run.  The raw stamps are the central pixels of the
cutouts, all bands, as flux and as asinh of the flux over the median noise; 20 components, then a
Gaussian mixture of 8 and of 12, five seeds: the median and the highest normalised mutual
information with the true class.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
import pyarrow.parquet as pq
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from galpipe.stamps.parts import Part
from galpipe.workspace import Ref, Workspace

SEEDS = 5
SIDES = (48, 64, 96)


def main(root: str, survey: str = "demo", release: str = "r1") -> None:
    workspace = Workspace.open(root, create=False)
    record = json.loads((workspace.release(survey, release) / "release.json").read_text())
    figures = json.loads(
        (
            workspace.place(Ref("evaluation", record["refs"]["evaluation"])) / "figures.json"
        ).read_text()
    )["headline"]
    print(
        f"published labels  NMI {figures['published_nmi']:.3f} on {figures['judged']} held-out, "
        f"{figures['all_objects_nmi']:.3f} on all objects"
    )
    catalogue = pq.read_table(
        workspace.place(Ref("sample", record["refs"]["sample"])) / "catalogue.parquet"
    )
    kinds = np.array(catalogue["input_kind"].to_pylist())
    index = pq.read_table(
        workspace.place(Ref("cutouts", record["refs"]["cutouts"])) / "index.parquet"
    )
    for side in SIDES:
        stamps, truth = raw_stamps(workspace, index, kinds, side)
        noise = np.median(np.abs(stamps)) / 0.6745
        for name, pixels in (("flux", stamps), ("asinh", np.arcsinh(stamps / (3 * noise)))):
            vectors = PCA(20, random_state=0).fit_transform(pixels)
            for components in (8, 12):
                found = [
                    normalized_mutual_info_score(truth, mixture(vectors, components, seed))
                    for seed in range(SEEDS)
                ]
                print(
                    f"raw {side:3d} px {name:5s} PCA-20 + GMM-{components:<2d}  "
                    f"NMI {np.median(found):.3f} (highest {max(found):.3f})"
                )


def raw_stamps(workspace: Workspace, index, kinds: np.ndarray, side: int):  # type: ignore[no-untyped-def]
    """The central pixels of every cutout with pixels, (object, band x side x side), and classes."""
    stamps, truth = [], []
    parts, rows = np.array(index["part"].to_pylist(), object), index["row"].to_numpy()
    for digest in sorted({part for part in parts if part is not None}):
        part = Part(workspace.place(Ref("cutout-part", digest)))
        ny, nx = part.read("ny"), part.read("nx")
        here = np.flatnonzero(parts == digest)
        for shard in range(part.shards):
            span = part.rows(shard)
            image = part.read("image", span)
            for k in here[(rows[here] >= span.start) & (rows[here] < span.stop)]:
                row = rows[k]
                y, x = (ny[row] - side) // 2, (nx[row] - side) // 2
                whole = np.zeros((image.shape[1], side, side), np.float32)
                top, left = max(y, 0), max(x, 0)
                cut = image[row - span.start, :, top : min(y + side, ny[row]), :]
                cut = cut[:, :, left : min(x + side, nx[row])]
                whole[:, top - y : top - y + cut.shape[1], left - x : left - x + cut.shape[2]] = cut
                stamps.append(np.nan_to_num(whole).ravel())
                truth.append(kinds[k])
    return np.stack(stamps), np.array(truth)


def mixture(vectors: np.ndarray, components: int, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(components, random_state=seed, reg_covar=1e-4, max_iter=200)
        labels: np.ndarray = fitted.fit_predict(vectors / vectors.std(0))
    return labels


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
