"""What several of these tests use: the image, built once."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from chroot_image import Stage, build

from kmsd.sandbox.cache import cache_root

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The last stage of deploy/Containerfile."""
    folder = tmp_path_factory.mktemp("image")
    yield build(ROOT / "deploy/Containerfile", ROOT, cache_root(), folder, {"BUILD": "abc1234"})
    subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)
