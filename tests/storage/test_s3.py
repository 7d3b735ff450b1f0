from pathlib import Path

import pytest

from tasks.storage.objects import open_store
from tests.storage.contract import StoreContract


@pytest.mark.s3
class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3: str, tmp_path: Path) -> object:
        return open_store(f"{s3}/{tmp_path.name}")
