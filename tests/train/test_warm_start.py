"""Training that begins from a finished SAE: the same codes at first, dead latents drawn anew, and no SAE of another kind."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flows.addresses import addresses
from flows.config import PipelineConfig
from tasks.errors import InputError
from tasks.sae import SparseAutoencoder, load, save
from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.content import content_of
from tasks.sae.mesh import Mesh, OneProcess
from tasks.sae.parameters import joined
from tasks.sae.scaling import Scaling, Weights
from tasks.train.config import TrainConfig
from tasks.train.finish import close, finished_weights
from tasks.train.loop import Run
from tasks.train.plan import Plan, plan
from tasks.train.train_state import TrainState
from tasks.train.warm_start import Seen, firing, warm_state
from tasks.train.worker import Worker
from tests.composed import members, run_settings
from tests.interchange.conftest import D_IN, D_SAE, K, Make, assert_near
from tests.interchange.conftest import made as made
from tests.interchange.conftest import x as x
from tests.sae.threads import in_mesh
from tests.train.conftest import make_run, pipeline
from tests.train.test_resume import KilledError, assert_equal_bits, keep, train_to_the_end

TinyRun = Callable[..., tuple[PipelineConfig, str]]
OTHER_SCALE = Scaling(torch.linspace(-2, 5, D_IN), torch.full((D_IN,), 1.7))


def planned(arch: str, d_out: int = D_IN, **settings: object) -> Plan:
    train = TrainConfig(tokens=6400, batch_tokens=64, lanes=4, precision="fp32", init_from="champion")
    return plan(SAEConfig(arch=arch, d_sae=D_SAE, k=K, **settings), train, D_IN, d_out)


def unit_rows(weights: Weights) -> Weights:
    return replace(weights, W_dec=torch.nn.functional.normalize(weights.W_dec))


def finished(planned: Plan, state: TrainState, scaling: Scaling) -> SparseAutoencoder:
    return SparseAutoencoder(planned.sae, finished_weights(planned, state, scaling)).requires_grad_(requires_grad=False)


def all_fire(sample: Tensor) -> Seen:
    return Seen(torch.ones(D_SAE, dtype=torch.bool), sample)


@pytest.mark.parametrize("arch", NAMES)
def test_behind_another_centre_and_scale_it_begins_with_the_codes_of_the_sae(arch: str, made: Make, x: Tensor) -> None:
    champion, p = made(arch), planned(arch)
    sae = replace(champion, weights=unit_rows(champion.weights)).module()
    found = finished(p, warm_state(p, sae, all_fire(x), OTHER_SCALE), OTHER_SCALE)
    assert_near(found.encode(x), sae.encode(x))
    assert_near(found(x), sae(x))
    assert (found.encode(x) > 0).sum() == (sae.encode(x) > 0).sum() > 0


@pytest.mark.parametrize("arch", ["l1", "gated", "jumprelu", "l1_2023", "jumprelu_tanh"])
def test_decoder_rows_of_any_norm_keep_reconstructions_where_codes_are_not_ranked(arch: str, made: Make, x: Tensor) -> None:
    p, sae = planned(arch), made(arch).module()
    assert_near(finished(p, warm_state(p, sae, all_fire(x), OTHER_SCALE), OTHER_SCALE)(x), sae(x))


@pytest.mark.parametrize("arch", ["topk", "l1"])
def test_a_transcoder_with_a_skip_path_begins_with_the_same_reconstructions(arch: str, made: Make, x: Tensor) -> None:
    made_one = made(arch, skip=True, d_out=5)
    sae, p = replace(made_one, weights=unit_rows(made_one.weights)).module(), planned(arch, 5, skip=True)
    means, scales = (OTHER_SCALE.mean, torch.linspace(0, 9, 5)), (OTHER_SCALE.scale, torch.full((5,), 0.4))
    both = Scaling(torch.cat(means), torch.cat(scales))
    state = warm_state(p, sae, all_fire(torch.cat([x, x[:, :5]], dim=1)), both)
    # Rows of a transcoder's decoder are in both hooks' units: all codes grow alike where they are made to have norm 1.
    assert_near(finished(p, state, both)(x), sae(x))


@pytest.mark.parametrize("arch", ["batchtopk", "jumprelu", "gated"])
def test_latents_that_do_not_fire_begin_anew_and_the_others_stay(arch: str, made: Make, x: Tensor) -> None:
    made_one, p = made(arch), planned(arch)
    sae = replace(made_one, weights=unit_rows(made_one.weights)).module()
    dead = torch.arange(D_SAE) < 7
    found = warm_state(p, sae, Seen(~dead, x), OTHER_SCALE).parameters
    before = warm_state(p, sae, all_fire(x), OTHER_SCALE).parameters
    for name in ("encoder", "W_dec"):
        now, then = getattr(found, name), getattr(before, name)
        assert torch.equal(now[~dead], then[~dead])
        assert bool((now[dead] != then[dead]).any(1).all())
    assert torch.allclose(found.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-5)


def test_new_latents_lean_on_the_row_that_is_rebuilt_worst(made: Make, x: Tensor) -> None:
    made_one, p = made("topk"), planned("topk")
    sae = replace(made_one, weights=unit_rows(made_one.weights)).module()
    rows = torch.cat([sae(x).detach(), 400 * torch.ones(1, D_IN) * torch.tensor([1.0, -1.0] * 3)])
    found = warm_state(p, sae, Seen(torch.zeros(D_SAE, dtype=torch.bool), rows), OTHER_SCALE).parameters
    worst = torch.nn.functional.normalize(OTHER_SCALE.apply(rows[-1:]))
    cosines = (found.W_dec @ worst.T)[:, 0]
    assert float(cosines.min()) > 0  # half of each is the row, the other half random
    assert float(cosines.mean()) > 0.6


def test_a_latent_fires_if_it_does_on_any_row_of_any_batch(made: Make, x: Tensor) -> None:
    sae = made("l1").module()
    with torch.no_grad():
        sae.b_enc[3] = -1e6
    fires = firing(sae, x.split(10))
    assert torch.equal(fires, (sae.encode(x) > 0).any(0))
    assert not bool(fires[3])


def test_each_worker_of_a_mesh_begins_with_its_part_of_the_same_latents(made: Make, x: Tensor) -> None:
    p, sae = planned("jumprelu"), made("jumprelu").module()
    seen = Seen(torch.arange(D_SAE) >= 3, x)
    alone = warm_state(p, sae, seen, OTHER_SCALE)
    parts = in_mesh(1, 2, lambda mesh: warm_state(p, sae, seen, OTHER_SCALE, latents=mesh.latents).parameters.flat)
    assert torch.equal(joined(parts, p.layout).flat, alone.parameters.flat)


def test_the_rate_is_a_share_of_the_cold_one_and_sparsity_is_there_from_the_first_step() -> None:
    def of(**settings: object) -> Plan:
        return plan(SAEConfig(arch="l1", l1_coefficient=0.1), TrainConfig(precision="fp32", **settings), 64)

    cold, warm = of(), of(init_from="x")
    assert warm.lr == cold.lr / 2
    assert of(init_from="x", lr=0.01, init_lr_factor=0.1).lr == pytest.approx(0.001)
    assert warm.warmup_steps == pytest.approx(0.15 * warm.n_steps)
    assert (cold.sparsity_at(0), warm.sparsity_at(0)) == (pytest.approx(1 / (0.05 * cold.n_steps)), 1.0)


def champion(folder: Path, arch: str = "batchtopk", **settings: object) -> str:
    """A trained SAE, finished as a run leaves it."""
    config, activations = make_run(folder, sae={"arch": arch}, **settings)
    out = f"{folder}/saes/champion-{arch}"
    worker = Worker(run_settings(config), activations, out, OneProcess())
    close(worker.config, activations, out, worker.finish(worker.train()), {})
    return out


@pytest.mark.parametrize("arch", NAMES)
def test_a_few_steps_keep_what_a_champion_has_learnt(arch: str, tmp_path: Path) -> None:
    first = champion(tmp_path, arch)
    config, activations = make_run(tmp_path, sae={"arch": arch}, tokens=320, init_from=first)
    worker = Worker(run_settings(config), activations, f"{tmp_path}/warm", OneProcess())
    rows = torch.from_numpy(np.load(tmp_path / "rows.npy"))
    worker.finish(worker.train())
    before, after = (_fvu(load(uri), rows) for uri in (first, f"{tmp_path}/warm"))
    cold, _ = make_run(tmp_path, sae={"arch": arch}, tokens=320)
    control = Worker(run_settings(cold), activations, f"{tmp_path}/cold", OneProcess())
    control.finish(control.train())
    assert after < before + 0.05
    assert after < _fvu(load(f"{tmp_path}/cold"), rows)


def _fvu(sae: SparseAutoencoder, rows: Tensor) -> float:
    return float((rows - sae(rows)).square().sum() / (rows - rows.mean(0)).square().sum())


def test_once_there_is_a_checkpoint_the_champion_is_not_read_again(tmp_path: Path) -> None:
    first = champion(tmp_path)
    config, activations = make_run(tmp_path, init_from=first, checkpoint_every_tokens=5 * 32)
    undisturbed = train_to_the_end(config, activations, tmp_path / "one")

    def stop(run: Run) -> None:
        if run.state.step == 13:
            raise KilledError

    out = str(tmp_path / "two")
    with pytest.raises(KilledError):
        Worker(run_settings(config), activations, out, OneProcess()).train(
            on_row=stop, on_checkpoint=lambda run: keep(out, run)
        )
    shutil.rmtree(first)
    assert_equal_bits(train_to_the_end(config, activations, tmp_path / "two"), undisturbed)


def test_two_workers_go_on_with_a_champion_to_the_sae_of_one(tmp_path: Path) -> None:
    config, activations = make_run(tmp_path, init_from=champion(tmp_path))
    out = str(tmp_path / "sae")

    def flat(mesh: Mesh) -> Tensor:
        return Worker(run_settings(config), activations, out, mesh).train().state.parameters.flat

    first, second = in_mesh(2, 1, flat)
    assert torch.equal(first, second)
    assert torch.allclose(first, flat(OneProcess()), atol=2e-4)


def test_the_address_follows_the_content_of_the_champion_and_not_its_place(tmp_path: Path) -> None:
    first = champion(tmp_path)
    shutil.copytree(first, tmp_path / "copy")
    plain, one, other = (addresses(pipeline(tmp_path, init_from=uri)) for uri in (None, first, str(tmp_path / "copy")))
    assert one.sae == other.sae != plain.sae
    assert one.activations == plain.activations
    (tmp_path / "copy/manifest.json").unlink()  # without what it says of the files they are read
    assert content_of(str(tmp_path / "copy")) == content_of(first)
    changed = (tmp_path / "copy/config.json").read_text().replace('"tokens": 1280', '"tokens": 1281')
    (tmp_path / "copy/config.json").write_text(changed)
    assert addresses(pipeline(tmp_path, init_from=str(tmp_path / "copy"))).sae != one.sae


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"sae": {"arch": "topk"}}, "an SAE whose sae.arch is batchtopk, but here it is topk"),
        ({"sae": {"d_sae": 48}}, "an SAE whose sae.d_sae is 24, but here it is 48"),
        ({"init_from": "nowhere"}, "where there is no SAE: a directory with"),
    ],
)
def test_an_sae_of_another_kind_is_refused(settings: dict[str, object], told: str, tmp_path: Path) -> None:
    config, activations = make_run(tmp_path, **{"init_from": champion(tmp_path), **settings})
    with pytest.raises(InputError, match=told):
        Worker(run_settings(config), activations, f"{tmp_path}/warm", OneProcess()).start()


def test_an_sae_of_other_hooks_is_refused_and_an_imported_one_is_not(tmp_path: Path) -> None:
    first = champion(tmp_path)
    sae = load(first)
    config, activations = make_run(tmp_path, init_from=str(tmp_path / "other"))
    worker = Worker(run_settings(config), activations, f"{tmp_path}/warm", OneProcess())
    save(sae, str(tmp_path / "other"), {"hook_roles": {"inputs": ["a.b"], "outputs": ["a.b"]}})
    with pytest.raises(InputError, match=r"an SAE of a\.b, but here it is one of source"):
        worker.start()
    save(sae, str(tmp_path / "other"), {"hook": "blocks.3.hook_resid_post", "imported_from": "saelens"})
    assert worker.start().state.step == 0


def test_a_sweep_begins_from_drawn_weights(tmp_path: Path) -> None:
    config = pipeline(tmp_path, init_from="x")
    swept = config.model_copy(update={"sweep": config.sweep.model_copy(update={"k": (2, 3)})})
    with pytest.raises(InputError, match=r"train\.init_from is set, but SAEs of a sweep begin from drawn weights"):
        members(swept)
