import json
from dataclasses import replace

import pytest

from tasks.planner.forecast import UNPRICED, Forecast, Prices, forecast_stages
from tasks.planner.needs import StageName, needs
from tasks.planner.processors import CPU
from tasks.planner.speed import Speed, Speeds
from tasks.planner.words import accounted, line, long, short, size, table
from tests.planner.demo import DEMO

NEEDS = needs(DEMO, CPU)
ALL: dict[StageName, float] = dict.fromkeys(NEEDS, 1.0)
NONE = dict.fromkeys(NEEDS, 0)
MINUTE: Speeds = {stage: Speed(fixed=60.0, per_cost=0.0, source="a clock") for stage in NEEDS}


def forecast(shares: dict[StageName, float] = ALL, speeds: Speeds = MINUTE, prices: Prices = UNPRICED) -> Forecast:
    return Forecast(
        stages=forecast_stages(NEEDS, shares, NONE, speeds),
        tokens=299_776,
        how="counted",
        begin_seconds=30.0,
        free_bytes=51_000_000_000,
        prices=prices,
    )


def test_the_fixed_names_are_there() -> None:
    found = json.loads(json.dumps(forecast().to_json()))
    assert {"tokens", "bytes", "hours", "price"} <= set(found)
    assert found["hours"] == pytest.approx(330 / 3600)
    assert found["price"] is None, "nobody has named one"
    assert found["stages"]["training"]["cpu_hours"] == pytest.approx(2 * 60 / 3600)
    assert "gpu_hours" in replace(forecast(), cards=1).to_json()["stages"]["training"]
    assert list(found["stages"]) == ["text", "harvest", "training", "scoring", "report"]
    assert found["bytes"] == sum(stage["bytes"] for stage in found["stages"].values())


def test_what_is_finished_costs_nothing() -> None:
    found = forecast(ALL | {"text": 0.0, "harvest": 0.0})
    assert (found.stages["harvest"].seconds, found.stages["harvest"].bytes) == (0.0, 0)
    assert found.seconds == 30 + 3 * 60
    assert found.left == ["training", "scoring", "report"]
    everything = forecast(dict.fromkeys(NEEDS, 0.0))
    assert (everything.seconds, everything.bytes, everything.requests) == (0.0, 0, {"PUT": 0, "GET": 0, "LIST": 0})


def test_what_is_begun_costs_the_rest() -> None:
    speeds = MINUTE | {"harvest": Speed(fixed=10.0, per_cost=100 / NEEDS["harvest"].cost, source="")}
    assert forecast(ALL | {"harvest": 0.25}, speeds).stages["harvest"].seconds == pytest.approx(35)


def test_bytes_that_are_there_are_not_stored_again() -> None:
    there = NONE | {"training": NEEDS["training"].bytes - 7, "scoring": 10**12}
    found = forecast_stages(NEEDS, ALL, there, {})
    assert (found["training"].bytes, found["scoring"].bytes) == (7, 0)


def test_one_stage_of_unknown_speed_makes_the_time_unknown() -> None:
    known = {stage: speed for stage, speed in MINUTE.items() if stage != "scoring"}
    assert forecast(speeds=known).seconds is None
    assert forecast(ALL | {"scoring": 0.0}, known).seconds == 30 + 4 * 60


def test_a_price_is_that_of_hours_storage_and_requests() -> None:
    found = forecast(prices=Prices(per_hour=3.6, per_gb_month=0.02, per_1000_puts=5.0, per_1000_gets=1.0))
    requests = found.requests
    storage = found.bytes / 1e9 * 0.02
    assert found.price == pytest.approx(
        0.33 + storage + (requests["PUT"] + requests["LIST"]) * 0.005 + requests["GET"] * 0.001
    )
    assert replace(found, cards=8, prices=Prices(per_hour=3.6)).price == pytest.approx(8 * 0.33)
    assert forecast(prices=Prices(per_gb_month=0.02)).price is None


def test_the_line_before_a_run() -> None:
    sizes = size(forecast().bytes)
    assert line(forecast()) == f"about 6 minutes, {sizes}; free 51 GB"
    assert line(forecast(speeds={})) == f"time unknown (saemill plan measures it), {sizes}; free 51 GB"
    assert line(replace(forecast(), free_bytes=None)) == f"about 6 minutes, {sizes}"


def test_the_line_after_a_run() -> None:
    told = accounted(546.0, 2_400_000_000, 588.0, 2_410_000_000)
    assert told == "planned 9.1 min and 2.40 GB, took 9.8 min (+8%) and 2.41 GB (+0%)"
    assert accounted(None, 1000, 50.0, 900) == "planned 1.00 kB, took 50 s and 900 bytes (-10%)"


def test_the_table_says_what_the_figures_rest_on_and_how_to_give_a_price() -> None:
    told = list(table(forecast()))
    assert "time of text, harvest, training, scoring, report: from a clock" in told
    assert any("--price-per-hour" in each for each in told)
    assert not any(each.startswith("left out: ") for each in told)
    assert any(each.startswith("left out: ") for each in table(replace(forecast(), cards=1)))
    assert any("price: 0.33" in each for each in table(forecast(prices=Prices(per_hour=3.6))))


@pytest.mark.parametrize(
    ("seconds", "in_full", "in_short"),
    [(40, "40 seconds", "40 s"), (546, "9 minutes", "9.1 min"), (12_600, "3.5 hours", "3.5 h")],
)
def test_times_in_words(seconds: float, in_full: str, in_short: str) -> None:
    assert (long(seconds), short(seconds)) == (in_full, in_short)


@pytest.mark.parametrize(
    ("n_bytes", "told"),
    [(0, "0 bytes"), (999, "999 bytes"), (2_400_000_000, "2.4 GB"), (51_200_000, "51 MB"), (10**15, "1.0 PB")],
)
def test_sizes_in_words(n_bytes: int, told: str) -> None:
    assert size(n_bytes) == told
