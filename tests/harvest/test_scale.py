"""What the bookkeeping of a harvest asks of the object store, at a scale that shows how it grows."""

import pytest

from tests.benchmarks.harvest.bookkeeping import in_a_process

pytestmark = pytest.mark.s3


def test_a_harvest_lists_its_records_a_thousand_at_a_time_and_reads_each_once(s3: str) -> None:
    requests = in_a_process(f"{s3}/scale", 1005)["requests"]
    assert requests["LIST"] == 2
    # Beside one per record: the tokens' manifest and hashes, the manifest that is written, and what reads it.
    assert requests["all"] <= 2 + 1005 + 8
