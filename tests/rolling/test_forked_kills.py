"""A rolling harvest and its training, killed at each point and at random moments, without Ray."""

from pathlib import Path

from tests.kills.processes import told
from tests.rolling.forked_kills import IN_HARVEST, IN_TRAINING
from tests.sampled import every_case, examples

CHARACTERS, ALL_CHARACTERS = 60_000, 120_000


def test_a_twentieth_of_the_bytes_gives_the_same_sae_whoever_is_killed(tmp_path: Path) -> None:
    length = ALL_CHARACTERS if every_case() else CHARACTERS
    survived = told("tests.rolling.forked_kills", tmp_path, length, examples(6, 100), 0)
    assert survived["stored"] >= 20 * survived["budget"] > 0
    assert max(survived["peaks"].values()) <= survived["budget"]
    assert [tuple(point) for point in survived["points"]] == [
        *(("harvest", point) for point in IN_HARVEST),
        *(("training", point) for point in IN_TRAINING),
    ]
    assert sum(survived["kills"].values()) >= examples(6, 100)
