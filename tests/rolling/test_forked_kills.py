"""A rolling harvest and its training, killed at each point and at random moments, without Ray."""

from pathlib import Path

from tests.kills.processes import told
from tests.rolling.forked_kills import IN_HARVEST, IN_TRAINING
from tests.sampled import every_case
from tests.turns import kills_a_harvest

CHARACTERS, FEWER, KILLS = (120_000, 20, 100) if every_case() else (30_000, 10, 3)


@kills_a_harvest
def test_a_fraction_of_the_bytes_gives_the_same_sae_whoever_is_killed(tmp_path: Path) -> None:
    survived = told("tests.rolling.forked_kills", tmp_path, CHARACTERS, FEWER, KILLS, 0)
    assert survived["stored"] >= FEWER * survived["budget"] > 0
    assert max(survived["peaks"].values()) <= survived["budget"]
    assert [tuple(point) for point in survived["points"]] == [
        *(("harvest", point) for point in IN_HARVEST),
        *(("training", point) for point in IN_TRAINING),
    ]
    assert sum(survived["kills"].values()) >= KILLS
