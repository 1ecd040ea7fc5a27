"""The order of the stages, and what each hands to the next.

Importing this module is cheap: each stage's wing is imported when the stage runs, so that
"nothing to do" is said before any heavy library is loaded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from galpipe import releases, spec
from galpipe.archives.fingerprint import source_fingerprint
from galpipe.models.spec import NoModel
from galpipe.releases import Base
from galpipe.stages import Context
from galpipe.survey import Survey, before
from galpipe.workspace import MANIFEST, Ref

STAGES: tuple[str, ...] = (
    "sample",  # which objects
    "retrieve",  # their pixels, raw
    "prepare",  # stamps and measured columns
    "train",  # a model on the training split
    "embed",  # one vector per object
    "cluster",  # classes and memberships
    "evaluate",  # figures and plots of the held-out split
    "publish",  # the labels of the release
)
# What each stage adds to the refs of a run; stores made of parts count objects, the others outputs.
OUTPUTS: dict[str, tuple[str, ...]] = {
    "sample": ("sample",),
    "retrieve": ("cutouts",),
    "prepare": ("stamps",),
    "train": ("model",),
    "embed": ("embeddings",),
    "cluster": ("clusters", "assignments"),
    "evaluate": ("evaluation",),
    "publish": ("labels", "report"),
}
PARTS = {"cutouts": "cutout-part", "stamps": "stamp-part", "embeddings": "embedding-part"}


@dataclass(frozen=True)
class StageSummary:
    """What a stage did; `done` and `reused` count objects (retrieve, prepare, embed) or outputs."""

    name: str
    seconds: float
    done: int
    reused: int
    facts: dict[str, str | int | float] = field(default_factory=dict)


class Chain:
    """One run of a survey for one release; `run` the stages in order, then it is published."""

    def __init__(
        self,
        survey: Survey,
        context: Context,
        release: str | None = None,
        prune: int | None = None,
        base: Base | None = None,  # None: what earlier releases of the survey give
    ) -> None:
        self.survey = survey
        self.context = context
        self.prune = prune
        self.release = releases.release_name(survey, release, prune)
        self.refs: dict[str, Ref] = {}
        self.summaries: list[StageSummary] = []
        self.base = base or releases.base_of(context.workspace, survey, self.release, prune)
        self.key = releases.run_key(survey, self.release, prune)

    def run(self, stage: str) -> StageSummary:
        """Run one stage, or take its output where the same inputs made it before; once a run."""
        for summary in self.summaries:
            if summary.name == stage:
                return summary
        begin = time.perf_counter()
        before = self.context.workspace.committed_files()
        stages: dict[str, Callable[[], dict[str, str | int | float]]] = {
            "sample": self._sample, "retrieve": self._retrieve, "prepare": self._prepare,
            "train": self._train, "embed": self._embed, "cluster": self._cluster,
            "evaluate": self._evaluate, "publish": self._publish,
        }  # fmt: skip
        facts = stages[stage]()
        done, reused = self._work(stage, before)
        summary = StageSummary(stage, time.perf_counter() - begin, done, reused, facts)
        self.summaries.append(summary)
        return summary

    # Each stage below: what it takes, what it gives.

    def _sample(self) -> dict[str, str | int | float]:
        from galpipe.archives.table import read_objects
        from galpipe.sample.catalogue import sample

        survey = self.survey

        def read() -> Any:
            return read_objects(self.context, survey.archive, survey.sample)

        source = source_fingerprint(survey.archive, survey.sample, self.release)
        self.refs["sample"] = sample(self.context, survey.sample, read, source, self.prune)
        return {"objects": self._manifest("sample")["objects"]}

    def _retrieve(self) -> dict[str, str | int | float]:
        from galpipe.archives.retrieve import retrieve

        self.refs["cutouts"] = retrieve(
            self.context, self.survey.archive, self.refs["sample"], self.base.cutouts
        )
        return dict(self._manifest("cutouts")["by_status"])

    def _prepare(self) -> dict[str, str | int | float]:
        from galpipe.stamps.prepare import prepare
        from galpipe.stamps.scaling import fit_scaling

        settings, cutouts = self.survey.prepare, self.refs["cutouts"]
        self.refs["scaling"] = self.base.scaling or fit_scaling(
            self.context, settings, cutouts, self.refs["sample"]
        )
        self.refs["stamps"] = prepare(self.context, settings, self.refs["scaling"], cutouts)
        return dict(self._manifest("stamps")["by_status"])

    def _train(self) -> dict[str, str | int | float]:
        if isinstance(self.survey.model, NoModel):
            return {}
        if self.base.model is not None:
            self.refs["model"] = self.base.model
        else:
            from galpipe.models.training import shortened, train

            model, settings = self.survey.model, self.survey.training
            if self.prune is not None:
                model, settings = shortened(model, settings, self.prune)
            self.refs["model"] = train(
                self.context, model, settings, self.refs["stamps"], self.refs["sample"],
                self._start(),
            )  # fmt: skip
        return _plain(self._manifest("model").get("figures", {}))

    def _start(self) -> Ref | None:
        """The network of the survey that this one starts with, trained where it is not yet."""
        if self.survey.start is None:
            return None
        first = before(self.survey.start)
        self.context.progress.say(
            f"train: begins with the network of {first.name}, trained first where it is missing"
        )
        chain = Chain(first, self.context, prune=self.prune, base=Base())
        for stage in STAGES[: STAGES.index("train") + 1]:
            chain.run(stage)
        return chain.refs["model"]

    def _embed(self) -> dict[str, str | int | float]:
        if "model" not in self.refs:
            return {}
        from galpipe.classes.embedding import embed

        self.refs["embeddings"] = embed(
            self.context,
            self.survey.embed,
            self.refs["model"],
            self.refs["stamps"],
            self.refs["sample"],
        )
        return {}

    def _cluster(self) -> dict[str, str | int | float]:
        from galpipe.classes import clusters

        stamps, embeddings = self.refs["stamps"], self.refs.get("embeddings")
        self.refs["clusters"] = self.base.clusters or clusters.fit(
            self.context, self.survey.cluster, stamps, embeddings, self.refs["sample"]
        )
        self.refs["assignments"] = clusters.assign(
            self.context, self.refs["clusters"], stamps, embeddings
        )
        return _plain(self._manifest("clusters").get("figures", {}))

    def _evaluate(self) -> dict[str, str | int | float]:
        from galpipe.catalogue.evaluation import evaluate

        self.refs["evaluation"] = evaluate(
            self.context, self.survey.evaluate, self.refs["sample"], self.refs["stamps"],
            self.refs.get("model"), self.refs.get("embeddings"),
            self.refs["clusters"], self.refs["assignments"],
        )  # fmt: skip
        return _plain(self._manifest("evaluation").get("figures", {}))

    def _publish(self) -> dict[str, str | int | float]:
        from galpipe.catalogue.labels import publish
        from galpipe.catalogue.report.release import About, Inputs
        from galpipe.catalogue.report.stage import report

        survey, refs = self.survey, self.refs
        self.refs["labels"] = publish(
            self.context, survey.publish, survey.name, self.release, survey.archive.bands,
            survey.sample.redshift,
            catalogue=self.refs["sample"], cutouts=self.refs["cutouts"],
            preparation=spec.digest(
                {"prepare": spec.identity(survey.prepare), "scaling": self.refs["scaling"].digest}
            ),
            stamps=self.refs["stamps"], model=self.refs.get("model"),
            clusters=self.refs["clusters"], assignments=self.refs["assignments"],
            embeddings=self.refs.get("embeddings"),
        )  # fmt: skip
        refs["report"] = report(
            self.context,
            About(
                survey.name, survey.title, self.release, survey.archive.kind, survey.archive.bands,
                None if survey.start is None else survey.start.name,
            ),
            survey.evaluate,
            survey.publish,
            Inputs(
                catalogue=refs["sample"], cutouts=refs["cutouts"], stamps=refs["stamps"],
                model=refs.get("model"), embeddings=refs.get("embeddings"),
                clusters=refs["clusters"], assignments=refs["assignments"],
                evaluation=refs["evaluation"], labels=refs["labels"],
            ),
        )  # fmt: skip
        releases.publish(
            self.context.workspace, survey, self.release, self.prune, self.refs, self.base, self.key
        )
        return {"rows": self._manifest("labels")["objects"]}

    def _manifest(self, name: str) -> dict[str, Any]:
        manifest = self.context.workspace.manifest(self.refs[name])
        assert manifest is not None
        return manifest

    def _work(self, stage: str, before: frozenset[Path]) -> tuple[int, int]:
        """How much of a stage's output is new, and how much was there before it ran."""
        done = reused = 0
        for name in OUTPUTS[stage]:
            if name not in self.refs:
                continue
            if name not in PARTS:
                new = self.context.workspace.place(self.refs[name]) / MANIFEST not in before
                done, reused = done + new, reused + (not new)
                continue
            for entry in self._manifest(name)["parts"]:
                part = Ref(PARTS[name], entry["part"] if isinstance(entry, dict) else entry)
                place = self.context.workspace.place(part)
                layout = json.loads((place / "layout.json").read_text())
                objects, shard = layout["objects"], layout["shard"]
                for number, first in enumerate(range(0, objects, shard)):
                    rows = min(shard, objects - first)
                    old = place / "shards" / f"{number:05d}.json" in before
                    done, reused = done + rows * (not old), reused + rows * old
        return done, reused

    def summary(self) -> dict[str, Any]:
        """The run in plain values: what `--json` prints."""
        published = "labels" in self.refs
        folder = self.context.workspace.release(self.survey.name, self.release)
        statuses = self._manifest("labels")["by_status"] if published else {}
        return {
            "survey": self.survey.name,
            "release": self.release,
            "objects": self._manifest("sample")["objects"] if "sample" in self.refs else 0,
            "by_status": statuses,
            "stages": {
                s.name: {"seconds": round(s.seconds, 3), "done": s.done, "reused": s.reused}
                for s in self.summaries
            },
            "labels": str(folder / "labels.parquet") if published else None,
            "report": str(folder / "report.html") if published else None,
            "figures": self._manifest("evaluation")["figures"] if published else {},
        }


def _plain(facts: dict[str, Any]) -> dict[str, str | int | float]:
    return {k: v for k, v in facts.items() if isinstance(v, str | int | float)}
