from pathlib import Path

import pytest

from tasks.registry.registry import Registry
from tests.registry.stored import add, store_sae


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty storage, once on disk and once on a real S3 server."""
    if request.param == "disk":
        return f"{tmp_path}/runs"
    return f"{request.getfixturevalue('s3')}/{tmp_path.parent.name}-{tmp_path.name}"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An empty storage on disk, for what does not depend on where it is."""
    return f"{tmp_path}/runs"


@pytest.fixture
def three(folder: str) -> Registry:
    """A registry 'toy' with three versions and no champion."""
    return _with_three(folder)


@pytest.fixture
def three_anywhere(root: str) -> Registry:
    """The same, once on disk and once on S3."""
    return _with_three(root)


def _with_three(root: str) -> Registry:
    registry = Registry.at(root, "toy")
    for name in ("a", "b", "c"):
        add(registry, store_sae(root, name))
    return registry
