"""What moves an address, and what does not."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import create_model

from flows.addresses import Addresses, addresses, sweep_address
from flows.config import PipelineConfig, load_config, parse_config
from flows.stages import train_stage
from tasks.harvest.config import ActivationsConfig
from tasks.harvest.recipe import FIXED_OF_MODEL, FIXED_OF_OWN, own_row_order, row_order
from tasks.lm.files import model_identity
from tasks.recipe import differing
from tasks.sae.architectures.names import NAMES
from tasks.sae.config import SAEConfig
from tasks.sae.reads import read_by, unread_by
from tasks.score.config import ScoreConfig
from tasks.score.recipe import FIXED as FIXED_OF_SCORE
from tasks.settings import Settings
from tasks.storage.artifacts import identity
from tasks.train.config import TrainConfig
from tasks.train.recipe import FIXED_OF_SAE, training_recipe

ROOT = Path(__file__).parents[1]
# What 'auto' comes to is the machine's.
PRECISION = ("model.dtype=float32", "train.precision=fp32")
GOLDEN: dict[str, tuple[str, ...]] = {
    "crosscoder": ("656b5339606b", "f94826855d2a", "ed2628811df4", "d8213aa47e08", "5f2e129b0ebc", "0c2cff364119"),
    "demo": ("be637aa6af95", "cb29aa3cfb2e", "c4b325b7b061", "0b19e2677e4b", "5effedfcc018", "6716020fe164"),
    "nightly": ("2646a568d9af", "75aa363c659c", "c4b325b7b061", "a41f425c2328", "e7fde2e471c2", "40f0ad37c2b9"),
    "toy": ("", "bdf058911df5", "bdf058911df5", "f0e186751458", "0b09de62eda9", "30142b798984"),
    "transcoder": ("656b5339606b", "f94826855d2a", "ed2628811df4", "0c1921ba1971", "be871874c8a1", "badccfa7a9ce"),
}
"""Hashes of tokens, activations, shards, sae, scores and report, by configuration."""

APART = {"model": FIXED_OF_MODEL, "activations": FIXED_OF_OWN}
"""Groups of settings whose values the harvest's recipe fixes."""
NOT_COUNTED = {"ray", "sweep"}
"""Groups that say how something is done, or how often."""


def groups() -> Iterator[tuple[str, tuple[type[Settings], Mapping[str, Any]]]]:
    """Groups of a configuration's settings, each with its class and the values that its package's recipe fixes."""
    for name, field in PipelineConfig.model_fields.items():
        kind = field.annotation
        if not isinstance(kind, type) or not issubclass(kind, Settings) or name in NOT_COUNTED:
            continue
        home = kind.__module__.removesuffix(".config")
        yield name, (kind, APART[name] if name in APART else import_module(f"{home}.recipe").FIXED)


GROUPS: dict[str, tuple[type[Any], Any]] = dict(groups())
OF_HOOKS = {"hook", "hooks", "target_hook"}
"""Settings of training that the roles of the hooks tell."""

OTHER: dict[str, dict[str, Any]] = {
    "text": {
        "source": "other.txt",
        "column": "body",
        "chat_column": "messages",
        "title_columns": ["year"],
        "hub_split": "test",
        "max_tokens": 5000,
        "window_days": 3,
        "date_column": "day",
        "deduplicate": True,
        "context_length": 128,
        "eval_fraction": 0.2,
        "segment_tokens": 1000,
        "shuffle_documents": False,
        "seed": 1,
    },
    "model": {"name": "another/model", "revision": "main", "dtype": "bfloat16"},
    "harvest": {
        "hooks": ["model.layers.4"],
        "dtype": "float32",
        "drop_first_position": False,
        "drop_special_tokens": False,
        "max_norm_multiple": None,
        "shard_tokens": 1024,
        "row_group_rows": 512,
        "actors": 3,
        "cpus_per_actor": 2,
        "gpus_per_actor": 0.5,
        "batch_sequences": 4,
        "max_attempts": 1,
    },
    "activations": {
        "source": "other.npy",
        "tensor": "x",
        "column": "x",
        "label_column": "y",
        "labels": "labels.txt",
        "eval_fraction": 0.2,
        "dtype": "bfloat16",
    },
    "train": {
        "tokens": 50_000,
        "batch_tokens": 512,
        "lr": 0.01,
        "warmup_fraction": 0.1,
        "decay_fraction": 0.5,
        "adam_beta2": 0.99,
        "dead_after_tokens": 999,
        "sparsity_warmup_fraction": 0.4,
        "k_anneal_fraction": 0.3,
        "max_grad_norm": 2.0,
        "ema_decay": 0.9,
        "precision": "bf16",
        "seed": 1,
        "init_seed": 7,
        "lanes": 8,
        "workers": 4,
        "min_workers": 1,
        "latent_shards": 2,
        "cpus_per_worker": 2,
        "use_gpu": True,
        "checkpoint_every_tokens": 2048,
        "keep_checkpoints": 5,
        "max_failures": 1,
        "max_hours": 2.0,
        "price_per_hour": 1.0,
        "tensorboard": "events",
        "mlflow": "sqlite:///mlflow.db",
        "wandb": "project",
    },
    "score": {
        "max_tokens": 1000,
        "splice_tokens": 100,
        "baseline_tokens": 100,
        "top_contexts": 3,
        "quantiles": 1,
        "contexts_per_quantile": 1,
        "context_tokens": 5,
        "top_logits": 3,
        "neighbours": 2,
        "tasks_in_flight": 2,
    },
    "report": {"title": "Another", "max_latents": 10},
}
"""Values that are not the defaults. A number, a switch or a choice that is not here gets one of its kind."""
OTHER_OF_SAE: dict[str, Any] = {
    "d_in": 576,
    "d_sae": 1152,
    "k": 16,
    "k_start": 64,
    "aux_k": 8,
    "aux_coefficient": 0.5,
    "prefixes": (16, 4608),
    "l1_coefficient": 0.1,
    "p_final": 0.5,
    "l0_coefficient": 2.0,
    "tanh_coefficient": 3.0,
    "tanh_scale": 2.0,
    "pre_act_coefficient": 1e-4,
    "bandwidth": 0.1,
    "skip": True,
    "b_dec": "geometric_median",
}


def others_of(group: str) -> dict[str, Any]:
    """A value that is not the default for each setting of a group: the one in ``OTHER``, or else one of its kind."""
    kind, given = GROUPS[group][0], OTHER.get(group, {})
    schema = kind.model_json_schema()["properties"]
    names = [name for name in kind.model_fields if group != "train" or name not in OF_HOOKS]
    return {name: given[name] if name in given else another(f"{group}.{name}", schema[name]) for name in names}


def another(name: str, schema: Mapping[str, Any]) -> Any:
    """A value of a setting's kind that is not its default."""
    default = schema.get("default")
    (part,) = (part for part in schema.get("anyOf", [schema]) if part.get("type") != "null")
    if "enum" in part:
        return next(value for value in part["enum"] if value != default)
    if part["type"] == "boolean":
        return not default
    if part["type"] not in ("integer", "number"):
        raise LookupError(f"{name} is neither a number nor one of several values: write another value of it into OTHER.")
    low, step = part.get("minimum", part.get("exclusiveMinimum")), 1 if part["type"] == "integer" else 0.25
    return low + step if default != low + step else low + 2 * step


OTHERS = {group: others_of(group) for group in GROUPS}


def changes(others: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    return [(group, name) for group, values in others.items() for name in values]


def hashes(at: Addresses) -> tuple[str, ...]:
    found = (at.tokens, at.activations, at.shards, at.sae, at.scores, at.report)
    return tuple("" if uri is None else identity(uri) for uri in found)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_shipped_configurations_keep_their_addresses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert hashes(addresses(load_config(f"configs/{name}.yaml", PRECISION))) == GOLDEN[name]


def test_every_shipped_configuration_is_held_to_its_addresses() -> None:
    assert sorted(GOLDEN) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("group", GROUPS)
def test_every_setting_is_fixed_by_the_version_or_declared_as_not_read(group: str) -> None:
    kind, fixed = GROUPS[group]
    declared = kind.not_in_recipe | (OF_HOOKS if group == "train" else set())
    assert {*fixed} | declared == set(kind.model_fields)
    assert not {*fixed} & declared


def test_every_setting_of_an_sae_is_fixed_by_the_version() -> None:
    assert {*FIXED_OF_SAE} | {"d_in"} == {field.name for field in fields(SAEConfig)}
    assert {*OTHER_OF_SAE} | {"arch"} == {field.name for field in fields(SAEConfig)}
    assert {name for arch in NAMES for name in read_by(arch)} == {*FIXED_OF_SAE}


@pytest.mark.parametrize("group, name", changes({group: OTHERS[group] for group in GROUPS if group != "train"}))
def test_a_setting_moves_an_address_if_and_only_if_it_is_read(group: str, name: str) -> None:
    kind, fixed = GROUPS[group]
    plain, other = kind(), kind(**{name: OTHERS[group][name]})
    assert plain != other
    moved = differing(plain, fixed, kind.not_in_recipe) != differing(other, fixed, kind.not_in_recipe)
    assert moved == (name not in kind.not_in_recipe)


@pytest.mark.parametrize("arch", NAMES)
@pytest.mark.parametrize("name", OTHER_OF_SAE)
def test_an_sae_moves_if_and_only_if_its_architecture_reads_the_setting(arch: str, name: str) -> None:
    plain = SAEConfig(arch=arch)
    other = replace(plain, **{name: OTHER_OF_SAE[name]})
    moved = training_recipe(TrainConfig(), plain) != training_recipe(TrainConfig(), other)
    assert moved == (name in read_by(arch))
    assert (name in unread_by(arch)) == (name not in read_by(arch))


SAES = [SAEConfig(), SAEConfig(k_start=64), SAEConfig(arch="l1"), SAEConfig(arch="dense", k_start=9)]


@pytest.mark.parametrize("name", OTHERS["train"])
@pytest.mark.parametrize("sae", SAES, ids=lambda sae: f"{sae.arch} {sae.k_start}")
def test_a_setting_of_training_moves_an_sae_if_and_only_if_it_is_read(name: str, sae: SAEConfig) -> None:
    plain, other = TrainConfig(), TrainConfig(**{name: OTHERS["train"][name]})
    assert plain != other
    read = name not in TrainConfig.not_in_recipe
    if name == "k_anneal_fraction":
        read = sae == SAEConfig(k_start=64)
    if name == "sparsity_warmup_fraction":
        read = sae.arch == "l1"
    assert (training_recipe(plain, sae) != training_recipe(other, sae)) == read


def test_it_is_the_hooks_that_count_not_the_setting_that_names_them() -> None:
    def recipe(**train: Any) -> object:
        harvest = {"hooks": ["model.layers.4", "model.layers.8"]}
        return train_stage(parse_config({"text": {"source": "x.txt"}, "harvest": harvest, "train": train})).recipe()

    assert recipe() == recipe(hook="model.layers.4") == recipe(hooks=["model.layers.4"])
    told = [recipe(), recipe(hook="model.layers.8"), recipe(target_hook="model.layers.8")]
    told.append(recipe(hooks=["model.layers.4", "model.layers.8"]))
    assert all(a != b for i, a in enumerate(told) for b in told[:i])


def test_of_own_activations_no_setting_of_a_model_counts(tmp_path: Path) -> None:
    other = own(tmp_path, harvest={"hooks": ["model.layers.4"]}, model={"name": "another"}, text={"seed": 3})
    assert addresses(own(tmp_path)) == addresses(other)


def test_without_text_nothing_that_is_read_of_text_moves_the_scores(tmp_path: Path) -> None:
    plain, other = own(tmp_path), own(tmp_path, score={"splice_tokens": 1, "top_logits": 1})
    assert addresses(plain) == addresses(other)
    assert sweep_address(plain, ["a"]) == sweep_address(other, ["a"])
    assert addresses(plain).scores != addresses(own(tmp_path, score={"neighbours": 1})).scores


def test_another_version_is_another_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.train.stage import TrainStage

    before = addresses(own(tmp_path))
    monkeypatch.setattr(TrainStage, "version", TrainStage.version + 1)
    after = addresses(own(tmp_path))
    assert before.activations == after.activations
    assert len({before.sae, after.sae, before.scores, after.scores, before.report, after.report}) == 6


@pytest.mark.parametrize("group", GROUPS)
def test_a_new_setting_with_its_default_moves_nothing(group: str) -> None:
    kind, fixed = GROUPS[group]
    later: type[Any] = create_model("Later", __base__=kind, later=(int, 5))
    given = {name: value for name, value in OTHERS[group].items() if name in ("seed", "dtype", "neighbours", "title")}
    before = differing(kind(**given), fixed, kind.not_in_recipe)
    assert differing(later(**given), fixed, kind.not_in_recipe) == before
    assert differing(later(**given, later=6), fixed, kind.not_in_recipe) == before | {"later": 6}


@dataclass(frozen=True, kw_only=True)
class LaterSAE(SAEConfig):
    """SAEConfig with one setting more."""

    __pydantic_config__: ClassVar = SAEConfig.__pydantic_config__
    later: float | None = None


@pytest.mark.parametrize("arch", NAMES)
def test_a_new_setting_of_an_sae_moves_nothing_before_it_is_set(arch: str) -> None:
    sae = SAEConfig(arch=arch, k=16)
    later = LaterSAE(**asdict(sae))
    assert training_recipe(TrainConfig(), later) == training_recipe(TrainConfig(), sae)
    assert training_recipe(TrainConfig(), replace(later, later=0.5)) != training_recipe(TrainConfig(), sae)


def test_a_default_that_changes_moves_what_takes_it_and_leaves_what_names_the_old_value() -> None:
    later: type[Any] = create_model("Later", __base__=ScoreConfig, neighbours=(int, 7))
    assert differing(later(), FIXED_OF_SCORE, ScoreConfig.not_in_recipe) == {"neighbours": 7}
    assert differing(later(neighbours=5), FIXED_OF_SCORE, ScoreConfig.not_in_recipe) == {}


FIRST_SEEDS = {"demo": "bb29bb121fba", "crosscoder": "eec7fd5265c4"}
"""Hashes in the names of their pools of shards, when these had version 1."""


@pytest.mark.parametrize("name", FIRST_SEEDS)
def test_rows_lie_in_the_order_that_the_first_version_gave_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(f"configs/{name}.yaml", PRECISION)
    assert row_order(config.harvest, config.model, model_identity(config.model)) == FIRST_SEEDS[name]


def test_own_rows_lie_in_the_order_that_the_second_version_gave_them() -> None:
    assert own_row_order(ActivationsConfig(source="x.npy"), 32_768, 4_096, "sha256:0") == "4366a07dd1ed"


def own(folder: Path, **settings: Any) -> PipelineConfig:
    """A run on activations of the user's own."""
    import numpy as np

    source = folder / "rows.npy"
    if not source.exists():
        np.save(source, np.ones((64, 8), np.float32))
    return parse_config({"storage": str(folder), "activations": {"source": str(source)}, **settings})
