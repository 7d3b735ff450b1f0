"""What engines other than transformers are held to: which hooks, how near, and the files that they leave."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from tasks.errors import SaemillError
from tasks.lm.config import ModelConfig
from tasks.lm.engines import blocks, own_folder
from tasks.lm.engines.blocks import blocks_before, check_engine
from tasks.lm.engines.errors import EngineError
from tasks.lm.engines.hidden_files import read_hidden_states
from tasks.lm.engines.own_folder import OwnFolder
from tasks.lm.engines.parity import Parity, compared, require_parity, worst
from tasks.lm.engines.version import engine_identity, require_version
from tasks.lm.files import ModelFiles
from tests.conftest import ROOT

VLLM = ModelConfig(name="any", engine="vllm")


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "vocab_size": 50}
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


def test_a_hook_behind_block_n_is_the_stream_behind_n_and_one_blocks(llama: LlamaForCausalLM) -> None:
    hooks = ["model.layers.2", "model.layers.0"]
    assert blocks_before(llama, hooks) == {"model.layers.2": 3, "model.layers.0": 1}
    with torch.device("meta"):
        gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9))
    assert blocks_before(gpt2, ["transformer.h.1"]) == {"transformer.h.1": 2}


@pytest.mark.parametrize(
    "hook",
    ["model.layers.1:input", "model.layers.1.mlp", "model.layers.3", "model.norm", "model.layers", "lm_head", "1"],
)
def test_hooks_that_vllm_lacks_are_refused_by_name(llama: LlamaForCausalLM, hook: str) -> None:
    with pytest.raises(EngineError, match=f"Hook '{hook}' is no output of a whole block"):
        blocks_before(llama, ["model.layers.1", hook])
    check_engine(ModelConfig(), llama, [hook])  # transformers has them all, or says itself that it has not


def test_a_list_that_is_not_that_of_the_blocks_is_refused() -> None:
    with torch.device("meta"):
        bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=9))
    bert.others = torch.nn.ModuleList([torch.nn.Identity()])
    with pytest.raises(EngineError, match=r"'others\.0'"):
        blocks_before(bert, ["others.0"])


def test_vllm_reads_no_gguf(llama: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "resolve", lambda _: ModelFiles("folder", gguf="model.gguf"))
    with pytest.raises(EngineError, match=r"reads no GGUF files, such as model\.gguf"):
        check_engine(VLLM, llama, ["model.layers.1"])


ROWS = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))


def but(changed: int, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The rows, of which the first so many are changed."""
    return torch.cat([function(ROWS[:changed]), ROWS[changed:]])


def noisy(rows: torch.Tensor) -> torch.Tensor:
    """At a cosine of about .98."""
    return rows + 0.2 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (ROWS, True),
        (ROWS.bfloat16(), True),
        (but(3, noisy), True),
        (but(5, noisy), False),
        (but(1, lambda rows: -rows), False),
        (ROWS * 1.009, True),
        (ROWS * 1.011, False),
        (ROWS * 0.989, False),
        (but(19, lambda rows: 1.5 * rows), True),
        (but(22, lambda rows: 1.5 * rows), False),
        (but(1, lambda rows: torch.nan * rows), False),
        (torch.zeros_like(ROWS), False),
    ],
)
def test_most_tokens_must_be_the_same_and_none_quite_another(found: torch.Tensor, holds: bool) -> None:
    parity = compared(found.reshape(8, 50, 64), ROWS.reshape(8, 50, 64))
    assert parity.tokens == 400
    assert parity.holds == holds


def test_the_same_rows_differ_by_nothing() -> None:
    same = compared(ROWS, ROWS)
    assert (same.cosine, same.least_cosine, same.norm_error) == pytest.approx((1, 1, 0))


def test_a_refusal_names_the_engine_the_hook_and_what_was_measured() -> None:
    good, bad = Parity(2048, 1.0, 1.0, 0.0), Parity(2048, 0.876, 0.616, 0.187)
    require_parity("vLLM 0.22.0", {"a": good})
    with pytest.raises(EngineError) as refused:
        require_parity("vLLM 0.22.0", {"a": good, "model.layers.8": bad})
    for said in ("vLLM 0.22.0", "at model.layers.8", "2,048 tokens", "0.87600", "0.61600", "18.70%", "model.engine"):
        assert said in str(refused.value)


def test_of_several_loads_the_worst_is_told() -> None:
    one, other = Parity(2048, 0.9995, 0.99, 0.002), Parity(2040, 0.9999, 0.98, 0.003)
    assert worst([{"a": one, "b": one}, {"a": other}]) == {"a": Parity(2040, 0.9995, 0.98, 0.003), "b": one}
    assert worst([{}, {}]) == {}


def test_without_the_package_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])  # wherever it may be installed
    assert engine_identity(ModelConfig()) == {}
    with pytest.raises(EngineError, match=r"vllm, which is not installed here. Install it: pip install 'vllm>=0.18'"):
        engine_identity(VLLM)


@pytest.mark.parametrize("version", ["0.17.3", "0.9.2", "unknown"])
def test_a_version_without_hidden_states_is_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    with pytest.raises(EngineError, match=f"version {version}, which is installed here, gives no hidden states"):
        engine_identity(VLLM)


@pytest.mark.parametrize("version", ["0.18.0", "0.22.1.dev3+cu129", "1.0"])
def test_machines_must_have_the_version_that_the_results_are_named_after(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert engine_identity(VLLM) == {"engine": "vllm", "engine_version": version}
    require_version(VLLM, version)
    with pytest.raises(EngineError, match=re.escape(f"has vllm {version}, but the harvest was begun with 0.19.0")):
        require_version(VLLM, "0.19.0")


IDS = [3, 1, 4]


def written(path: Path, layers: int = 2) -> torch.Tensor:
    states = torch.randn(3, layers, 4)
    save_file({"hidden_states": states, "token_ids": torch.tensor(IDS)}, path)
    return states


def test_a_file_without_a_lock_is_read_once_it_is_whole(tmp_path: Path) -> None:
    states, path = written(tmp_path / "whole"), tmp_path / "a.safetensors"
    raw = (tmp_path / "whole").read_bytes()
    path.write_bytes(raw[:-9])
    later = threading.Timer(0.1, path.write_bytes, [raw])
    later.start()
    assert torch.equal(read_hidden_states(str(path), IDS, 2), states)
    later.join()


def test_a_file_with_a_lock_is_read_once_that_is_free(tmp_path: Path) -> None:
    path, lock = tmp_path / "a.safetensors", os.open(tmp_path / "a.safetensors.lock", os.O_CREAT | os.O_WRONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    written(path)
    held: list[bool] = []

    def finish() -> None:
        held.append(True)
        written(path)
        os.close(lock)

    later = threading.Timer(0.1, finish)
    later.start()
    read_hidden_states(str(path), IDS, 2)
    assert held == [True], "it was read while it was being written"
    later.join()


@pytest.mark.parametrize("locked", [True, False])
def test_a_file_that_never_comes_is_told_with_the_room_that_is_left(tmp_path: Path, locked: bool) -> None:
    if locked:
        (tmp_path / "a.safetensors.lock").touch()
    with pytest.raises(SaemillError, match=r"has not written the hidden states of a sequence .* GiB left at"):
        read_hidden_states(str(tmp_path / "a.safetensors"), IDS, 2, within_s=30 if locked else 0.01)


@pytest.mark.parametrize(("ids", "layers"), [([3, 1, 5], 2), ([3, 1], 2), (IDS, 1)])
def test_a_file_of_other_tokens_or_layers_is_refused(tmp_path: Path, ids: list[int], layers: int) -> None:
    written(tmp_path / "a.safetensors")
    with pytest.raises(SaemillError, match="others at"):
        read_hidden_states(str(tmp_path / "a.safetensors"), ids, layers)


def test_a_lock_that_is_never_let_go_is_waited_for_no_longer_than_asked(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "a.safetensors.lock", os.O_CREAT | os.O_WRONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(SaemillError, match="has not written"):
        read_hidden_states(str(tmp_path / "a.safetensors"), IDS, 2, within_s=0.05)
    os.close(lock)


KILLED = """
import sys, time
from pathlib import Path
from tasks.lm.engines import own_folder

own_folder._MEMORY = Path(sys.argv[1])
folder = own_folder.OwnFolder("pool", 1)
with folder.there():
    (folder.path / "left.safetensors").write_bytes(b"x")
    print(folder.path, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_what_others_hold_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_folder, "_MEMORY", tmp_path)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    one, other = OwnFolder("pool", 1), OwnFolder("pool", 1)
    with process:
        theirs = Path(process.stdout.readline().strip())
        with one.there():
            (one.path / "a").write_bytes(b"x")
            with other.there():
                assert theirs.parent == one.path.parent == other.path.parent
                assert all(path.is_dir() for path in (theirs, one.path, other.path))
            assert not other.path.exists()
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert theirs.is_dir()
            with other.there():
                assert not theirs.exists()
                assert (one.path / "a").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n_bytes", "home"), [(1, "memory"), (2**62, "disk")])
def test_a_folder_is_in_memory_where_that_has_room(
    n_bytes: int, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("memory", "disk"):
        (tmp_path / each).mkdir()
    monkeypatch.setattr(own_folder, "_MEMORY", tmp_path / "memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "disk"))
    folder = OwnFolder("pool", n_bytes)
    with folder.there():
        assert [path.name for path in (tmp_path / home).iterdir()] == [folder.path.parent.name]
