"""circuit-tracer's folder, against its formulas (circuit-tracer 0.5.0) written out here."""

from pathlib import Path

import pytest
import yaml
from torch import Tensor

from tasks.errors import InputError
from tasks.interchange import circuit_tracer
from tasks.interchange.portable import Portable
from tasks.storage.objects import open_store
from tests.interchange.conftest import D_IN, D_SAE, Make, assert_near, assert_same_sae

THRESHOLD = "activation_function.threshold"
ARCHS = [("l1", False), ("l1", True), ("jumprelu", False), ("batchtopk", True), ("matryoshka", False)]


def theirs(t: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and reconstructions as ``SingleLayerTranscoder`` gives them, once ``load_relu_transcoder`` has loaded it."""
    pre = x @ t["W_enc"].T + t["b_enc"]
    codes = pre * (pre > t[THRESHOLD]) if THRESHOLD in t else pre.relu()
    rebuilt = codes @ t["W_dec"] + t["b_dec"]
    return codes, rebuilt + x @ t["W_skip"].T if "W_skip" in t else rebuilt


def read_back(sae: Portable, folder: Path) -> Portable:
    for key, data in circuit_tracer.files(sae).items():
        (folder / key).write_bytes(data)
    return circuit_tracer.read(open_store(str(folder)))


@pytest.mark.parametrize(("arch", "skip"), ARCHS)
def test_an_exported_transcoder_gives_the_same_codes_by_their_formula(
    arch: str, skip: bool, transcoder: Make, x: Tensor
) -> None:
    sae = transcoder(arch, skip=skip)
    layer, _, tensors = circuit_tracer.written(sae)
    codes, rebuilt = theirs(tensors, x)
    assert layer == 3
    assert_near(codes, sae.module().encode(x))
    assert_near(rebuilt, sae.module()(x))


def test_files_have_the_names_and_shapes_that_their_loader_reads(transcoder: Make) -> None:
    _, _, tensors = circuit_tracer.written(transcoder("jumprelu", skip=True))
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    weights = {"W_enc": [D_SAE, D_IN], "b_enc": [D_SAE], "W_dec": [D_SAE, D_IN], "b_dec": [D_IN]}
    assert shapes == weights | {THRESHOLD: [D_SAE], "W_skip": [D_IN, D_IN]}
    files = circuit_tracer.files(transcoder("jumprelu"))
    assert list(files) == ["layer_3.safetensors", "config.yaml"]
    assert yaml.safe_load(files["config.yaml"]) == {
        "model_name": "some/model",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "scan": "saemill",
    }


@pytest.mark.parametrize(("arch", "skip"), ARCHS)
def test_a_transcoder_that_went_there_and_back_is_the_same(
    arch: str, skip: bool, transcoder: Make, x: Tensor, tmp_path: Path
) -> None:
    assert_same_sae(read_back(transcoder(arch, skip=skip), tmp_path), transcoder(arch, skip=skip), x)


def test_an_imported_transcoder_can_be_exported_again(transcoder: Make, tmp_path: Path) -> None:
    files = circuit_tracer.files(transcoder("jumprelu"))
    assert circuit_tracer.files(read_back(transcoder("jumprelu"), tmp_path)) == files


@pytest.mark.parametrize("place", ["post_attention_layernorm", "mlp:input", "pre_feedforward_layernorm:output"])
def test_the_input_of_an_mlp_has_several_names(place: str, transcoder: Make) -> None:
    _, settings, _ = circuit_tracer.written(transcoder("l1", hooks=(f"model.layers.3.{place}",)))
    assert settings["feature_input_hook"] == "mlp.hook_in"


def test_an_sae_of_its_own_input_is_refused(made: Make) -> None:
    with pytest.raises(InputError, match="replaces MLPs by transcoders, and this SAE rebuilds its own input"):
        circuit_tracer.written(made("l1"))


@pytest.mark.parametrize("arch", ["topk", "gated"])
def test_kinds_that_they_would_misread_are_refused(arch: str, transcoder: Make) -> None:
    with pytest.raises(InputError, match=f"architecture {arch} as ReLU and find other latents active"):
        circuit_tracer.written(transcoder(arch))


def test_a_transcoder_to_another_width_is_refused(transcoder: Make) -> None:
    with pytest.raises(InputError, match="of one width, not from 6 to 5 features"):
        circuit_tracer.written(transcoder("l1", d_out=5))


@pytest.mark.parametrize(
    ("hook", "target"),
    [
        ("model.layers.3", "model.layers.3.mlp"),
        ("model.layers.2.mlp:input", "model.layers.3.mlp"),
        ("model.layers.3.mlp:input", "model.layers.3"),
    ],
)
def test_what_does_not_stand_in_for_an_mlp_is_refused(hook: str, target: str, transcoder: Make) -> None:
    with pytest.raises(InputError, match="replaces the MLP of one layer, and "):
        circuit_tracer.written(transcoder("l1", hooks=(hook,), target_hook=target))


def test_a_cross_layer_transcoder_is_refused(transcoder: Make, tmp_path: Path) -> None:
    read_back(transcoder("l1"), tmp_path)
    (tmp_path / "config.yaml").write_text("model_kind: cross_layer_transcoder")
    with pytest.raises(InputError, match="writes to all later layers, for which saemill has no architecture"):
        circuit_tracer.read(open_store(str(tmp_path)))


def test_a_folder_of_several_layers_is_refused(transcoder: Make, tmp_path: Path) -> None:
    read_back(transcoder("l1"), tmp_path)
    (tmp_path / "layer_4.safetensors").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"holds 2 files layer_<i>.safetensors, and saemill imports one transcoder at a time"
    ):
        circuit_tracer.read(open_store(str(tmp_path)))


@pytest.mark.parametrize("text", ["[", "- 1"])
def test_settings_that_are_none_are_refused(text: str, transcoder: Make, tmp_path: Path) -> None:
    read_back(transcoder("l1"), tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config.yaml (is not valid YAML|holds no mapping)"):
        circuit_tracer.read(open_store(str(tmp_path)))
