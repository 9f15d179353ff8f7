"""Trained: the models that the agent can use, by name, and which one answers by the option `model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from qstream.learn.model import Model
from qstream.learn.registry import Models, Want
from qstream.nvlink.contention import MODEL as CONTENTION
from qstream.nvlink.layouts import FEATURES
from qstream.nvlink.split_policy import FEATURES as PATH_FEATURES
from qstream.nvlink.split_policy import NAME as SPLITS

WANTS: Final[Mapping[str, Want]] = {
    CONTENTION: Want(("svm",), FEATURES, 1),
    SPLITS: Want(("mlp",), PATH_FEATURES, 1),
}


def chosen(models: Models, name: str, version: str | None) -> Model | None:
    """The version of a model that the option names, the newest without one; None if it is not published."""
    if version is None:
        newest = models.newest(name)
        return None if newest is None else models.get(name, newest)
    return models.get(name, int(version)) if version.isdecimal() else None
