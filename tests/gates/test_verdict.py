"""PROMOTE, HOLD and REJECT: what is a win, a tie and a loss by each gate."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from flows.config import parse_config
from tasks.errors import InputError
from tasks.gates.config import Gate, GatesConfig
from tasks.gates.ledger import GateLedger, described, write_ledger
from tasks.gates.metrics import MetricName
from tasks.gates.noise import seed_noise
from tasks.gates.sums import DRAWS, Estimate
from tasks.gates.verdict import judged, verdict


def estimate(value: float, spread: float = 0.0, seed: int = 0) -> Estimate:
    draws = np.random.default_rng(seed).normal(size=DRAWS)
    return Estimate(value, value + spread * (draws - draws.mean()) / draws.std(ddof=1))


def outcome(gate: Gate, champion: Estimate, challenger: Estimate) -> str:
    (found,) = judged([gate], {gate.metric: champion}, {gate.metric: challenger})
    return found.outcome


@pytest.mark.parametrize(
    "metric, challenger, expected",
    [
        ("fvu", 0.1 + 0.0042, "tie"),
        ("fvu", 0.1 + 0.0043, "loss"),
        ("fvu", 0.1 - 0.0042, "tie"),
        ("fvu", 0.1 - 0.0043, "win"),
        ("ce_recovered", 0.1 - 0.0043, "loss"),
        ("ce_recovered", 0.1 + 0.0043, "win"),
    ],
)
def test_three_deviations_of_the_difference_of_two_seeds_are_chance(
    metric: MetricName, challenger: float, expected: str
) -> None:
    gate = Gate(metric=metric, sigma=0.001)  # 3 * sqrt(2) * .001 = .00424
    assert outcome(gate, estimate(0.1), estimate(challenger)) == expected


def test_rows_that_differ_for_the_two_widen_what_is_chance() -> None:
    gate, champion = Gate(metric="fvu", sigma=0.0), estimate(0.1)
    assert outcome(gate, champion, estimate(0.102)) == "loss"
    assert outcome(gate, champion, estimate(0.102, spread=0.001)) == "tie"
    assert outcome(gate, champion, estimate(0.1031, spread=0.001)) == "loss"


def test_a_margin_is_given_beside() -> None:
    gate = Gate(metric="never_firing", sigma=0.0, margin=0.02)
    assert [outcome(gate, estimate(0.1), estimate(value)) for value in (0.119, 0.121, 0.081, 0.079)] == [
        "tie",
        "loss",
        "tie",
        "win",
    ]


def test_a_floor_is_passed_or_missed_whatever_the_champion_is() -> None:
    l0, shared = Gate(metric="l0_error", kind="floor", tolerance=0.05), Gate(metric="shared", kind="floor", tolerance=0.6)
    assert [outcome(l0, estimate(0.5), estimate(value)) for value in (0.05, 0.051, 0.0)] == ["tie", "loss", "tie"]
    assert [outcome(shared, estimate(1.0), estimate(value)) for value in (0.6, 0.59)] == ["tie", "loss"]


def test_what_was_not_measured_decides_nothing() -> None:
    results = judged(GatesConfig().rules, {"fvu": estimate(0.1)}, {"fvu": estimate(0.1)})
    assert [result.outcome for result in results] == ["tie"] + ["not measured"] * 5
    assert verdict(results)[0] == "HOLD"


def test_one_loss_rejects_whatever_is_won_beside_it() -> None:
    champion = {"fvu": estimate(0.2), "never_firing": estimate(0.1)}

    def said(fvu: float, never_firing: float) -> tuple[str, str]:
        challenger = {"fvu": estimate(fvu), "never_firing": estimate(never_firing)}
        return verdict(judged(GatesConfig().rules, champion, challenger))

    assert said(0.2, 0.1) == ("HOLD", "Nothing to gain: the champion is as good on these rows.")
    assert said(0.15, 0.1)[0] == "PROMOTE"
    rejected, reason = said(0.15, 0.2)
    assert (rejected, "never_firing" in reason, "fvu" in reason) == ("REJECT", True, False)


def test_noise_is_what_is_given_else_that_of_repeats_else_what_is_typical() -> None:
    plain = Gate(metric="fvu")
    assert seed_noise(Gate(metric="fvu", sigma=0.5), 0.1, [0.2, 0.3]).sigma == 0.5
    found = seed_noise(plain, 0.1, [0.102, 0.098])
    assert (found.origin, found.sigma) == ("repeats", pytest.approx(0.002 * 6.402, rel=1e-3))
    assert seed_noise(plain, 0.1, []).origin == "typical"
    assert seed_noise(plain, 0.2, []).sigma == 2 * seed_noise(plain, 0.1, []).sigma


def test_a_deviation_of_a_hundred_trainings_is_hardly_widened() -> None:
    values = list(np.random.default_rng(0).normal(0.1, 0.001, 100))
    found = seed_noise(Gate(metric="fvu"), values[0], values[1:])
    assert found.sigma == pytest.approx(float(np.std(values, ddof=1)), rel=0.05)


def test_a_ledger_is_called_by_its_content_and_tells_all(tmp_path: Path) -> None:
    champion, challenger = {"fvu": estimate(0.1)}, {"fvu": estimate(0.2)}
    about = {
        "champion": "sha256:1",
        "challenger": "sha256:2",
        "activations": "abc",
        "rows": 9,
        "blocks": 8,
        "target_l0": 3.0,
    }
    ledger = GateLedger.of(judged(GatesConfig().rules, champion, challenger), **about)
    uri = write_ledger(ledger, str(tmp_path))
    assert write_ledger(ledger, str(tmp_path)) == uri
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert (found["verdict"], found["gates"][0]["outcome"], found["champion"]) == ("REJECT", "loss", "sha256:1")
    assert found["metrics"]["fvu"].startswith("Fraction of variance unexplained")
    lines = described(ledger).splitlines()
    assert lines[0].split() == ["gate", "champion", "challenger", "limit", "sigma", "outcome"]
    assert lines[1].split()[:4] == ["fvu", "(champion)", "0.1000", "0.2000"]
    assert lines[-1] == "REJECT: It is worse by fvu than chance explains, or than is allowed."


def test_settings_refuse_nonsense_by_name() -> None:
    base = {"activations": {"source": "x.npy"}}
    for rules, told in (
        ([{"metric": "fuv"}], r"gates\.rules\.0\.metric is 'fuv' but must be 'fvu', "),
        ([{"metric": "fvu", "tolerance": -1}], r"gates\.rules\.0\.tolerance is -1 but must be at least 0"),
        ([{"metric": "fvu", "direction": "higher"}], r"gates\.rules: of fvu, lower is better, but its direction is higher"),
        ([], r"gates\.rules is .* must name at least 1"),
    ):
        with pytest.raises(InputError, match=told):
            parse_config(base | {"gates": {"rules": rules}})
    with pytest.raises(ValidationError):
        Gate(metric="fvu", kind="ceiling")  # type: ignore[arg-type]
    assert parse_config(base | {"gates": {"rules": [{"metric": "fvu", "tolerance": "2"}]}}).gates.rules[0].tolerance == 2
