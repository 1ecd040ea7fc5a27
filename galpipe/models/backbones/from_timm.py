"""Encoders of the library timm, where it is installed."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import torch
from torch import Tensor

from galpipe.errors import InputError
from galpipe.models.backbones.backbone import Backbone
from galpipe.models.backbones.spec import Timm


class TimmEncoder(Backbone):
    """A timm model without its classifier, whose own pooling gives the features."""

    def __init__(self, spec: Timm, bands: int, size: int) -> None:
        super().__init__()
        timm = _library()
        if not timm.is_model(spec.name):
            near = difflib.get_close_matches(spec.name, timm.list_models(), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "timm.list_models() names them."
            raise InputError(f"[model] encoder: timm has no model {spec.name!r}; {hint}")
        options: dict[str, Any] = {"pretrained": False, "in_chans": bands, "num_classes": 0}
        if spec.drop_path:
            options["drop_path_rate"] = spec.drop_path
        self.network = _made(timm, spec.name, size, options)
        with torch.no_grad():
            found = self.network.eval()(torch.zeros(1, bands, size, size))
        self.network.train()
        self.features = int(found.shape[1])

    def maps(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self.network.forward_features(images_BAYX)
        if found.ndim != 4:
            raise InputError("[model] encoder: this timm model gives no feature maps.")
        return found

    def forward(self, images_BAYX: Tensor) -> Tensor:
        found: Tensor = self.network(images_BAYX)
        return found.float()


def _library() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise InputError(
            "[model] encoder: kind = 'timm' needs the library timm, which is not installed; "
            "install it (pip install timm), or take kind = 'residual'."
        ) from None


def _made(timm: Any, name: str, size: int, options: dict[str, Any]) -> Any:
    """A timm model; transformers are told the images' size, which convolutions need not know."""
    try:
        return timm.create_model(name, img_size=size, **options)
    except TypeError:
        pass
    try:
        return timm.create_model(name, **options)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise InputError(f"[model] encoder: timm cannot build {name!r}: {error}.") from None
