"""What a configuration may hold: kinds, bounds, counts, paths, and the names that are suggested for others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.config import PipelineConfig, load_config, parse_config
from tasks.errors import InputError
from tasks.sae.config import SAEConfig

ROOT = Path(__file__).parents[1]
TOY = ROOT / "configs/toy.yaml"
BASE: dict[str, Any] = {"activations": {"source": "x.npy"}}


def given(*overrides: str) -> PipelineConfig:
    return load_config(TOY, overrides)


def numbers() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Group, name and JSON schema of every number, of lists that of their items."""
    schema = PipelineConfig.model_json_schema()
    for group, field in schema["properties"].items():
        for name, setting in schema["$defs"].get(field.get("$ref", "").rpartition("/")[2], {}).get("properties", {}).items():
            for part in setting.get("anyOf", [setting]):
                inner = part.get("items", part)
                if inner.get("type") in ("integer", "number"):
                    yield group, name, inner


NUMBERS = list(numbers())


def test_every_number_has_bounds_in_the_schema() -> None:
    assert len(NUMBERS) > 60
    for group, name, schema in NUMBERS:
        assert schema.keys() & {"minimum", "exclusiveMinimum"}, f"{group}.{name} has no lower bound"
        assert schema.keys() & {"maximum", "exclusiveMaximum"}, f"{group}.{name} has no upper bound"


def beyond(schema: dict[str, Any]) -> list[float]:
    low = schema["minimum"] - 1 if "minimum" in schema else schema["exclusiveMinimum"]
    high = schema["maximum"] * 2 + 1 if "maximum" in schema else schema["exclusiveMaximum"]
    return [low, high, float("inf"), float("-inf"), float("nan"), True]


def test_whatever_the_schema_refuses_is_refused_by_name() -> None:
    for group, name, schema in NUMBERS:
        is_list = isinstance(getattr(getattr(PipelineConfig(**BASE), group), name), tuple) or name == "prefixes"
        for value in beyond(schema):
            with pytest.raises(InputError, match=rf"^{group}\.{name}(\.0)? is .* but must .*\.$"):
                parse_config(BASE | {group: BASE.get(group, {}) | {name: [value] if is_list else value}})


def test_a_negative_width_is_refused_by_the_schema_and_by_the_plain_dataclass() -> None:
    with pytest.raises(ValidationError):
        PipelineConfig(**BASE, sae={"d_sae": -5})
    with pytest.raises(ValueError, match=r"sae\.d_sae is -5 but must be at least 1"):
        SAEConfig(d_sae=-5)
    with pytest.raises(ValueError, match=r"sae\.aux_coefficient is nan but must be"):
        SAEConfig(aux_coefficient=float("nan"))


@pytest.mark.parametrize(
    "override, told",
    [
        ("sae.k=yes", "sae.k is 'yes' but must be a whole number"),
        ("train.lr=true", "train.lr is True but must be a number"),
        ("sae.k=12:30", "sae.k is '12:30' but must be a whole number"),
        ("sae.k=1.5", "sae.k is 1.5 but must be a whole number"),
        ("sae.prefixes=[1, true]", "sae.prefixes.1 is True but must be a number"),
        ("sweep.k=[on]", "sweep.k.0 is 'on' but must be a whole number"),
        ("train.use_gpu=yes", "train.use_gpu is 'yes' but must be true or false"),
        ("train.use_gpu=1", "train.use_gpu is 1 but must be true or false"),
        ("report.title=2024", "report.title is 2024 but must be text (in quotes"),
        ("train.seed=18446744073709551616", "train.seed is 18446744073709551616 but must be at most"),
        ("train.price_per_hour=.inf", "train.price_per_hour is inf but must be a finite number"),
        ("train.cpus_per_worker=1e-9", "train.cpus_per_worker is 1e-09 but must be at least 0.01"),
        ("ray.object_store_mb=9e12", "ray.object_store_mb is 9000000000000 but must be at most"),
        ("harvest.gpus_per_actor=1.5", "harvest.gpus_per_actor is 1.5 but must be a whole number, or a part of 1"),
        ("harvest={gpus_per_actor: 2, gpus_per_replica: 2}", "harvest.gpus_per_actor is 2 but must be 1, or 0 for CPUs"),
        ("sae.d_sae=1e13", "sae.d_sae is 10000000000000 but must be below"),
        ("storage=~nobody-of-that-name/x", "must not begin with '~nobody-of-that-name', which is nobody's home folder"),
        ("model.name=~x", "must not begin with '~x'"),
        ("storage=" + "x" * 256, "must have at most 255 bytes between two '/'"),
        ("text.source=" + "/x" * 2500, "must have at most 4,096 characters, not 5,000"),
        ("name=" + "x" * 256, "name is "),
        ('report.title="\\e[31m"', "control character"),
        ("sweep.seeds=[" + "1," * 200 + "]", "sweep.seeds"),
    ],
)
def test_another_value_than_meant_is_refused(override: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        given(override)
    assert told in str(refused.value)
    assert len(str(refused.value)) < 1200


@pytest.mark.parametrize("text", ["1M", "1e6", "1_000_000", "1000k", "0.001B", "'1M'", "1000000"])
def test_counts_may_be_written_as_people_do(text: str) -> None:
    assert given(f"train.tokens={text}").train.tokens == 1_000_000
    assert given(f"sweep.d_sae=[{text}]").sweep.d_sae == (1_000_000,)
    assert given(f"sae.d_sae={text}").sae.d_sae == 1_000_000


def test_counts_in_a_file_and_from_a_form_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "counts.yaml"
    path.write_text("activations: {source: x.npy}\ntrain: {tokens: 1.5M, batch_tokens: 1_024}\nsae: {d_sae: 2k, k: 010}\n")
    config = load_config(path)
    assert (config.train.tokens, config.train.batch_tokens, config.sae.d_sae, config.sae.k) == (1_500_000, 1024, 2000, 10)
    assert PipelineConfig(**BASE, train={"tokens": "1.5M", "batch_tokens": "1_024"}).train == config.train


@pytest.mark.parametrize(
    "name", ["storage", "text.source", "model.name", "activations.source", "activations.labels", "train.tensorboard"]
)
def test_paths_begin_at_home_where_they_say_so(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    value: Any = given(f"{name}=~/x")
    for part in name.split("."):
        value = getattr(value, part)
    assert value == f"{tmp_path}/x"


@pytest.mark.parametrize(
    "override, told",
    [
        ("k=3", "Unknown setting 'k'; did you mean sae.k or sweep.k?"),
        ("sae.kk=3", "Unknown setting 'sae.kk'; did you mean sae.k?"),
        ("sea.k=3", "Unknown setting 'sea.k'; did you mean sae.k or sweep.k?"),
        ("sea={k: 3}", "Unknown setting 'sea'; did you mean sae?"),
        ("sae.dsae=3", "Unknown setting 'sae.dsae'; did you mean sae.d_sae?"),
        ("d_sae=3", "Unknown setting 'd_sae'; did you mean sae.d_sae or sweep.d_sae?"),
        ("train.max_token=3", "did you mean text.max_tokens or score.max_tokens?"),
        ("text.tokens=3", "did you mean train.tokens or text.max_tokens?"),
        ("modle.name=x", "did you mean model.name"),
        ("train.learning-rate=1", "Unknown setting 'train.learning-rate'; allowed here: "),
        ("storag=x", "Unknown setting 'storag'; did you mean storage?"),
        ("sae.colour=3", "Unknown setting 'sae.colour'; allowed here: arch, aux_coefficient,"),
    ],
)
def test_a_name_that_no_setting_has_is_answered_with_the_one_that_was_meant(
    override: str, told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as refused:
        given(override)
    assert told in str(refused.value)


def test_names_in_a_file_are_answered_alike(tmp_path: Path) -> None:
    path = tmp_path / "typos.yaml"
    for text, told in {
        "k: 3": "'k'; did you mean sae.k or sweep.k?",
        "sae: {dsae: 3}": "'sae.dsae'; did you mean sae.d_sae?",
        "sea: {k: 3}": "'sea'; did you mean sae?",
    }.items():
        path.write_text(f"activations: {{source: x.npy}}\n{text}\n")
        with pytest.raises(InputError, match="Unknown setting") as refused:
            load_config(path)
        assert str(refused.value) == f"Unknown setting {told}"


def test_of_a_thousand_mistakes_some_are_told_and_the_rest_are_counted() -> None:
    with pytest.raises(InputError, match=r"sweep\.k\.0 is 0 but must be at least 1\. .*And 995 more\.$"):
        parse_config(BASE | {"sweep": {"k": [0] * 1000}})


def test_a_sweep_of_millions_is_refused_by_arithmetic() -> None:
    lists = {"k": list(range(1, 4000)), "seeds": list(range(4000)), "lr": [1e-4, 1e-3]}
    with pytest.raises(InputError, match=r"The sweep has 31,992,000 SAEs, 3,999 \(sweep\.k\) x .* at most 4,096"):
        parse_config(BASE | {"sae": {"d_sae": 4608}, "sweep": lists})


def test_halves_of_surrogate_pairs_are_refused_wherever_they_stand() -> None:
    for values in ({"storage": "\udcff"}, {"\ud800": 1}, {"sae": {"\ud800": 1}}, {"text": {"column": "\ud800"}}):
        with pytest.raises(InputError, match=r"surrogate|unicode"):
            parse_config(BASE | values)
