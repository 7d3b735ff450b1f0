import pytest

from tasks.sae.config import SAEConfig
from tasks.train.config import TrainConfig
from tasks.train.plan import plan


def resolved(**settings):
    return plan(SAEConfig(), TrainConfig(**settings), d_in=576)


def test_the_last_batch_is_filled_so_steps_round_up():
    assert resolved(tokens=2049, batch_tokens=1024).n_steps == 3


def test_learning_rate_rises_stays_and_falls():
    p = resolved(tokens=100 * 1024, lr=1.0, warmup_fraction=0.1, decay_fraction=0.2)
    assert [round(p.lr_at(s), 3) for s in (0, 4, 9, 10, 79, 80, 90, 99)] == [0.1, 0.5, 1, 1, 1, 1, 0.5, 0.05]


def test_without_warmup_and_decay_the_rate_is_constant():
    p = resolved(tokens=10 * 1024, lr=1.0, warmup_fraction=0, decay_fraction=0)
    assert {p.lr_at(s) for s in range(10)} == {1.0}


@pytest.mark.parametrize("tokens", [1024, 10_000, 1_000_000, 123_456_789])
def test_checkpoints_fall_on_steps_that_close_a_row_of_the_curve(tokens):
    p = resolved(tokens=tokens)
    assert p.checkpoint_every % p.log_every == 0
    assert p.n_steps // p.log_every <= 500


def test_checkpoints_come_no_more_often_than_asked():
    p = resolved(tokens=1_000_000, checkpoint_every_tokens=100_000)
    assert 100_000 <= p.checkpoint_every * 1024 < 110_000


def test_what_is_left_empty_follows_the_length_of_the_run():
    short, long = resolved(tokens=100_000), resolved(tokens=100_000_000)
    assert short.dead_after < long.dead_after
    assert short.lr > long.lr


def test_adam_forgets_within_a_fifteenth_of_a_short_run():
    assert resolved(tokens=100 * 1024).betas == (0.9, pytest.approx(0.98))
    assert resolved(tokens=3_000 * 1024).betas == (0.9, pytest.approx(0.995))
    assert resolved(tokens=100_000 * 1024).betas == (0.9, pytest.approx(0.999))
    assert resolved(adam_beta2=0.95).betas == (0.9, 0.95)


def test_where_auxk_works_latents_are_dead_early_but_not_before_they_could_fire():
    def window(arch: str, tokens: int, d_sae: int = 4608, k: int = 32) -> int:
        return plan(SAEConfig(arch=arch, d_sae=d_sae, k=k), TrainConfig(tokens=tokens), d_in=576).dead_after

    assert window("topk", 6_500_000) == 10_000
    assert window("l1", 6_500_000) == 65_000
    assert window("batchtopk", 1_000_000, d_sae=65_536) == 32_768  # 16 times the 2,048 rows for one firing each
    assert window("batchtopk", 100_000, d_sae=65_536) == 5_000  # a twentieth of the run
    assert window("topk", 10_000_000_000) == 10_000_000


def test_windows_around_thresholds_are_wider_in_shorter_runs_and_the_papers_in_long_ones():
    def width(arch: str, n_steps: int) -> float | None:
        train = TrainConfig(tokens=n_steps * 1024)
        return plan(SAEConfig(arch=arch), train, d_in=400).sae.bandwidth

    assert width("jumprelu", 2_000_000) == pytest.approx(0.02)
    assert width("jumprelu_l0", 10_000) == pytest.approx(0.2)
    assert width("jumprelu_tanh", 10_000) == 2.0
    assert width("topk", 10_000) is None


def test_the_tanh_formulation_s_rate_joins_the_runs_here_to_its_source_s():
    def lr(d_sae: int, n_steps: int) -> float:
        return plan(SAEConfig(arch="jumprelu_tanh", d_sae=d_sae), TrainConfig(tokens=n_steps * 1024), d_in=400).lr

    assert lr(4608, 1000) == pytest.approx(3e-3)
    assert lr(512, 1000) == lr(4608, 1000)
    assert lr(4608, 200_000) == pytest.approx(2e-4, rel=0.1)
