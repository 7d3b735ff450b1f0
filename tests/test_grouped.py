"""Which tests go together to one of pytest's processes."""

import pytest

from tests.grouped import group


@pytest.mark.parametrize(
    ("nodeid", "has", "name", "long"),
    [
        ("tests/train/test_on_ray.py::test_a", {"ray", "ray_cluster", "s3"}, "ray-train", True),
        ("tests/train/test_nodes.py::test_a[1]", {"ray"}, "train-nodes", True),
        ("tests/flows/test_serve.py::test_a", {"served", "ray", "prefect", "browser"}, "prefect-flows", True),
        ("tests/flows/test_scheduler.py::test_a", {"prefect"}, "flows-scheduler", True),
        ("tests/report/test_in_browser.py::test_a[x::y]", {"browser", "chromium"}, "report-in_browser", False),
        ("tests/test_configs.py::test_a", set(), "tests-configs", False),
    ],
)
def test_what_is_slow_to_start_is_started_for_one_group_and_files_stay_whole(
    nodeid: str, has: set[str], name: str, long: bool
) -> None:
    assert group(nodeid, has) == (name, long)
