"""Which precision fits which machines, from what they say of themselves."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flows.addresses import addresses
from flows.config import PipelineConfig, parse_config
from flows.resolve import resolved, settled
from tasks.gpus import asked_of_the_driver, built_for_gpus, torch_is_built_for_gpus, visible_gpus
from tasks.machines import machine_of_node
from tasks.precision import Machine, described, for_training, on_cpus, on_gpus, this_machine
from tasks.train.config import TrainConfig
from tasks.train.plan import _bf16

# As /proc/cpuinfo shows them, in which each core repeats the same.
ZEN_3 = "model name\t: AMD EPYC 7763\nflags\t\t: fpu sse2 f16c avx2 fma vaes\n\nprocessor\t: 1\nmodel name\t: B\n"
ZEN_4 = "model name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f avx512vl avx512_bf16 avx512_vnni\n"
CASCADE_LAKE = "model name\t: Intel(R) Xeon(R) Gold 6248\nflags\t\t: fpu avx2 avx512f avx512vl avx512_vnni\n"
SAPPHIRE_RAPIDS = "model name\t: Intel(R) Xeon(R) 8481C\nflags\t\t: avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile\n"
GRAVITON_2 = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics fphp asimdhp\nCPU part\t: 0xd0c\n"
GRAVITON_3 = "processor\t: 0\nFeatures\t: fp asimd sve svebf16 i8mm bf16 dgh rng\nCPU part\t: 0xd40\n"
TWO_GPUS = "0, GPU-12ab-01, 9.0\n1, GPU-34cd-02, 7.5\n"
EMULATION = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@pytest.mark.parametrize(
    ("cpuinfo", "environment", "dtype", "why"),
    [
        (ZEN_3, {}, "float32", "AMD EPYC 7763 multiplies bfloat16 slowly (no AVX512-BF16, AMX or Arm BF16)"),
        (CASCADE_LAKE, {}, "float32", "no AVX512-BF16"),
        (ZEN_4, {}, "bfloat16", "AMD EPYC 9654 multiplies bfloat16 fast (AVX512-BF16)"),
        (SAPPHIRE_RAPIDS, {}, "bfloat16", "(AMX)"),
        (GRAVITON_2, {}, "float32", "no AVX512-BF16, AMX or Arm BF16"),
        (GRAVITON_3, {}, "bfloat16", "(Arm BF16)"),
        ("", {}, "float32", "says of it)"),  # no Linux
        (ZEN_4, EMULATION, "float32", "(ONEDNN_MAX_CPU_ISA=AVX2)"),
        (SAPPHIRE_RAPIDS, {"ATEN_CPU_CAPABILITY": "avx2"}, "float32", "(ATEN_CPU_CAPABILITY=avx2)"),
        (SAPPHIRE_RAPIDS, {"DNNL_MAX_CPU_ISA": "avx512_core_vnni"}, "float32", "(DNNL_MAX_CPU_ISA=avx512_core_vnni)"),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "bfloat16", "fast"),
        (SAPPHIRE_RAPIDS, {"ONEDNN_MAX_CPU_ISA": "ALL", "ATEN_CPU_CAPABILITY": "avx512"}, "bfloat16", "fast"),
        (ZEN_3, EMULATION, "float32", "no AVX512-BF16"),  # nothing is kept from it that it has
        (GRAVITON_3, EMULATION, "bfloat16", "fast"),  # names of another kind of CPU's instructions
    ],
)
def test_a_cpu_gets_bfloat16_where_it_multiplies_it_fast(
    cpuinfo: str, environment: dict[str, str], dtype: str, why: str
) -> None:
    found = on_cpus([described(cpuinfo, environment)])
    assert found.dtype == dtype
    assert why in found.reason


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ([(8, 0)], "bfloat16"),
        ([(9, 0), (8, 6)], "bfloat16"),
        ([(7, 5)], "float16"),
        ([(9, 0), (7, 0)], "float16"),
        ([(12, 0)], "bfloat16"),
        ([(6, 1)], "float32"),  # has float16, a 64th as fast
        ([(9, 0), (6, 0)], "float32"),
        ([], "float32"),
    ],
)
def test_a_gpu_gets_bfloat16_from_compute_capability_8_on_and_float16_from_7_on(
    capabilities: list[tuple[int, int]], dtype: str
) -> None:
    assert on_gpus([described(ZEN_3, {}, [capability]) for capability in capabilities]).dtype == dtype


def test_an_sae_is_trained_in_float32_where_a_model_runs_in_float16() -> None:
    told = {
        capability: for_training(on_gpus([described(ZEN_3, {}, [capability])])) for capability in ((8, 0), (7, 5), (6, 1))
    }
    assert {capability: choice.dtype for capability, choice in told.items()} == {
        (8, 0): "bfloat16",
        (7, 5): "float32",
        (6, 1): "float32",
    }
    assert told[7, 5].reason == (
        "a GPU of compute capability 7.5 has no bfloat16, which came with 8.0, and float16 without loss scaling loses small "
        "gradients"
    )
    assert told[6, 1].reason == "a GPU of compute capability 6.1 multiplies neither bfloat16 nor float16 fast"


@pytest.mark.parametrize(
    ("use_gpu", "capability", "bf16"),
    [(True, (8, 0), True), (True, (7, 5), False), (False, (8, 0), False), ("auto", (8, 0), False)],
)
def test_a_plan_without_a_pipeline_is_in_the_precision_of_its_own_device(
    use_gpu: object, capability: tuple[int, int], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.precision._cpuinfo", lambda: ZEN_3)
    monkeypatch.setattr("tasks.precision.gpu_capabilities", lambda: (capability,))
    assert _bf16(TrainConfig(use_gpu=use_gpu)) == bf16  # type: ignore[arg-type]


def test_machines_that_differ_agree_on_float32_which_is_slow_on_none() -> None:
    found = on_cpus([described(text, {}) for text in (ZEN_4, ZEN_3, SAPPHIRE_RAPIDS)])
    assert found.dtype == "float32"
    assert "AMD EPYC 7763" in found.reason
    assert found.reason.endswith("as does 1 of the 3 machines")
    assert on_cpus([described(text, {}) for text in (ZEN_4, SAPPHIRE_RAPIDS)]).dtype == "bfloat16"


@pytest.mark.parametrize(
    ("settings", "machines", "dtype", "precision"),
    [
        ({}, [described(ZEN_4, {})], "bfloat16", "bf16"),
        ({}, [described(ZEN_3, {})], "float32", "fp32"),
        ({}, [described(ZEN_3, {}, [(9, 0)])], "bfloat16", "bf16"),
        ({}, [described(ZEN_3, {}, [(7, 5)])], "float16", "fp32"),
        ({}, [described(ZEN_4, {}, [(7, 0)])], "float16", "bf16"),  # too old for auto to train on it
        ({"train.use_gpu": False}, [described(ZEN_3, {}, [(9, 0)])], "bfloat16", "fp32"),  # harvested on the GPU
        ({"train.workers": 4, "train.latent_shards": 2}, [described(ZEN_3, {}, [(9, 0)])], "bfloat16", "fp32"),
        ({"harvest.gpus_per_actor": 0}, [described(ZEN_3, {}, [(9, 0)])], "float32", "bf16"),
        ({"train.use_gpu": True}, [described(ZEN_3, {}, [(9, 0)]), described(ZEN_3, {})], "bfloat16", "bf16"),
        ({"train.use_gpu": True}, [described(ZEN_4, {}, [(7, 5)])], "float16", "fp32"),
        ({"model.dtype": "float16"}, [described(ZEN_4, {})], "float16", "bf16"),
        ({"train.precision": "fp32"}, [described(ZEN_4, {})], "bfloat16", "fp32"),
    ],
)
def test_the_machines_that_do_a_stage_decide_its_precision(
    settings: dict[str, object], machines: list[Machine], dtype: str, precision: str
) -> None:
    found, _ = settled(_config(settings), machines)
    assert (found.model.dtype, found.train.precision) == (dtype, precision)


def test_one_line_says_what_was_chosen_and_why() -> None:
    named = {"model.dtype": "float32", "train.precision": "fp32"}
    on_cpu = {"train.use_gpu": False}
    cases = [({}, described(ZEN_3, {})), (on_cpu, described(ZEN_3, {}, [(8, 0)])), (named, described(ZEN_3, {}))]
    assert [settled(_config(settings), [machine])[1] for settings, machine in cases] == [
        "precision: model.dtype float32 and train.precision fp32, since AMD EPYC 7763 multiplies bfloat16 slowly "
        "(no AVX512-BF16, AMX or Arm BF16)",
        "precision: model.dtype bfloat16, since a GPU of compute capability 8.0 multiplies it fast; train.precision fp32, "
        "since AMD EPYC 7763 multiplies bfloat16 slowly (no AVX512-BF16, AMX or Arm BF16)",
        None,
    ]


def test_auto_has_the_address_of_what_it_comes_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("four words of text")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({"model_type": "llama"}))
    base = {"storage": str(tmp_path), "text.source": str(tmp_path / "corpus.txt"), "model.name": str(tmp_path / "model")}
    named = {
        precision: addresses(_config(base | {"model.dtype": dtype, "train.precision": precision}))
        for dtype, precision in (("float32", "fp32"), ("bfloat16", "bf16"))
    }
    assert named["fp32"].shards != named["bf16"].shards
    for text, precision in ((ZEN_3, "fp32"), (ZEN_4, "bf16")):
        monkeypatch.setattr("tasks.precision._cpuinfo", lambda text=text: text)
        for name in EMULATION:
            monkeypatch.delenv(name, raising=False)
        assert addresses(_config(base | {"harvest.gpus_per_actor": 0})) == named[precision]


def test_own_activations_are_told_of_training_only(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.eye(20, 4, dtype=np.float32))
    config = _config({"activations.source": str(tmp_path / "rows.npy")})
    assert resolved(resolved(config)) == resolved(config)
    assert str(settled(config, [described(ZEN_4, {})])[1]).startswith("precision: train.precision bf16, since AMD EPYC 9654")


def test_the_driver_is_asked_for_compute_capabilities() -> None:
    def answering(text: str) -> object:
        return lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=text)

    def missing(*_: object, **__: object) -> "subprocess.CompletedProcess[str]":
        raise FileNotFoundError

    assert asked_of_the_driver(answering(TWO_GPUS), {}) == ((9, 0), (7, 5))  # type: ignore[arg-type]
    assert asked_of_the_driver(answering("0, GPU-12, [N/A]\n"), {}) == ()  # type: ignore[arg-type]
    assert asked_of_the_driver(missing, {}) == ()


BY_BUS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@pytest.mark.parametrize(
    ("environment", "capabilities"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1", **BY_BUS}, ((7, 5),)),
        ({"CUDA_VISIBLE_DEVICES": " 1, 0", **BY_BUS}, ((7, 5), (9, 0))),
        ({"CUDA_VISIBLE_DEVICES": "0,7,1", **BY_BUS}, ((9, 0),)),  # CUDA goes no further than a name that none has
        ({"CUDA_VISIBLE_DEVICES": "GPU-12ab-01"}, ((9, 0),)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-34"}, ((7, 5),)),
        ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-34cd-02/1/0"}, ((7, 5),)),
        ({"CUDA_VISIBLE_DEVICES": "GPU-"}, ()),  # either of two
        ({"CUDA_VISIBLE_DEVICES": "MIG-56ef"}, ()),  # torch is asked
        ({"CUDA_VISIBLE_DEVICES": "1"}, ()),  # the order is CUDA's own, so torch is asked
        ({"CUDA_VISIBLE_DEVICES": ""}, ((9, 0), (7, 5))),  # Ray's doing on a node; see visible_gpus
    ],
)
def test_only_the_gpus_that_this_process_is_to_see_decide(
    environment: dict[str, str], capabilities: tuple[tuple[int, int], ...]
) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout=TWO_GPUS)
    assert asked_of_the_driver(lambda *_, **__: answer, environment) == capabilities


def test_gpus_of_one_kind_need_no_order() -> None:
    answer = subprocess.CompletedProcess([], 0, stdout="0, GPU-1, 9.0\n1, GPU-2, 9.0\n")
    assert asked_of_the_driver(lambda *_, **__: answer, {"CUDA_VISIBLE_DEVICES": "1"}) == ((9, 0),)


def test_gpus_that_are_hidden_from_this_process_do_not_count() -> None:
    assert visible_gpus({}) and visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1"})
    assert not visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) and not visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"})


@pytest.mark.parametrize(
    ("told", "built"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '7.1'", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None", False),
        ("__version__ = '1.0'", False),
    ],
)
def test_a_torch_that_was_built_for_cpus_uses_no_gpu(told: str, built: bool, tmp_path: Path) -> None:
    (tmp_path / "version.py").write_text(f"from typing import Optional\n{told}\n")
    assert built_for_gpus(tmp_path / "version.py") == built


def test_the_file_that_is_asked_says_what_torch_says() -> None:
    import torch

    assert torch_is_built_for_gpus() == (torch.version.cuda is not None or torch.version.hip is not None)


def test_of_a_node_those_gpus_count_that_the_cluster_gives_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.precision._cpuinfo", lambda: ZEN_3)
    monkeypatch.setattr("tasks.precision.gpu_capabilities", lambda: ((9, 0),) * 4)
    assert [len(machine_of_node(n).gpus) for n in (0, 2, 4)] == [0, 2, 4]


def test_this_machine_says_what_it_is() -> None:
    found = this_machine(gpus=False)
    assert found.cpu
    assert on_cpus([found]).reason.startswith(found.cpu)


def test_the_nodes_of_a_cluster_are_asked(ray_cluster: None) -> None:
    from tasks.ray_cluster import ask_nodes

    assert ask_nodes(machine_of_node) == [this_machine(gpus=False)]


def _config(settings: dict[str, object]) -> PipelineConfig:
    values: dict[str, dict[str, object]] = {"text": {"source": "corpus.txt"}}
    for name, value in settings.items():
        group, dot, key = name.partition(".")
        if dot:
            values.setdefault(group, {})[key] = value
        else:
            values[name] = value  # type: ignore[assignment]
    return parse_config(values)
