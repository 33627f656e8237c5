"""The tree of failures: each has an exit code of its own, a message and a next step."""

from __future__ import annotations

import re

import pytest

from mtkd_edge import errors
from mtkd_edge.errors import MissingExtraError, MtkdError


def tree(root: type[MtkdError] = MtkdError) -> list[type[MtkdError]]:
    """The classes of errors.py; subclasses that tests define do not count."""
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(found for child in children for found in tree(child))]


def test_every_failure_has_an_exit_code_of_its_own() -> None:
    codes = {kind.__name__: kind.exit_code for kind in tree()}
    assert sorted(codes.values()) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_drawing_of_the_tree_is_the_tree() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d)", errors.__doc__ or ""))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in tree() if kind is not MtkdError}


@pytest.mark.parametrize("kind", [kind for kind in tree() if kind is not MissingExtraError])
def test_a_failure_says_what_happened_and_what_to_type_next(kind: type[MtkdError]) -> None:
    error = kind("the disk is full", "df -h")
    assert isinstance(error, MtkdError)
    assert (error.message, error.hint) == ("the disk is full", "df -h")
    assert str(error) == "the disk is full\n  hint: df -h"
    assert str(kind("no way out")) == "no way out"


def test_a_missing_package_names_the_line_that_installs_it() -> None:
    error = MissingExtraError("torch", "train", "training")
    assert error.message == "training needs the package 'torch', which is not installed"
    assert error.hint == "pip install 'mtkd-edge[train]'"
