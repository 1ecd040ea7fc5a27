"""What a task that fetches is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from galpipe.archives.frames import FieldName
from galpipe.archives.located import Targets
from galpipe.archives.spec import Sdss, Sky


@dataclass(frozen=True)
class FetchWork:
    """Whole shards of a part and the objects that fill them, in row order; small and picklable."""

    spec: Sdss | Sky
    part: str  # path of the part
    shards: range
    targets: Targets
    # Fields whose frames other tasks may want too, and the shards of those tasks.
    shared: Mapping[FieldName, tuple[range, ...]] = field(default_factory=dict)
