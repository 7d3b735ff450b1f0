"""What helps to write a configuration: saemill settings, saemill init, and the shell's completion."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from flows.cli import main
from flows.config import PipelineConfig, load_config
from flows.console import on_one_line
from flows.draft import _yaml
from flows.preflight import check
from tasks.yaml_file import parse

ROOT = Path(__file__).parents[2]
WORDS = [f"word{i}" for i in range(50)]


@pytest.fixture
def saemill(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Runs a command and gives its exit code and what it wrote."""

    def run(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        return stopped.value.code, *capfd.readouterr()

    return run


def test_every_setting_is_listed_with_its_meaning(saemill: Callable[..., tuple[object, str, str]]) -> None:
    code, out, _ = saemill("settings", "--json")
    found = {setting["name"]: setting for setting in json.loads(out)["settings"]}
    assert code == 0
    for group, field in PipelineConfig.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None) or getattr(field.annotation, "__dataclass_fields__", {})
        for name in [f"{group}.{name}" for name in inner if not name.startswith("_")] or [group]:
            assert len(found[name]["meaning"]) > 15, f"{name} is not explained"
    assert found["sae.d_sae"] | {"meaning": ""} == {
        "name": "sae.d_sae",
        "kind": "whole number",
        "default": 4608,
        "bounds": "at least 1, below 2,147,483,648",
        "choices": [],
        "meaning": "",
    }
    assert found["harvest.drop_first_position"]["choices"] == ["true", "false"]
    assert found["train.use_gpu"]["choices"] == ["auto", "true", "false"]
    assert found["train.use_gpu"]["kind"] == "auto or true or false"
    assert "topk" in found["sae.arch"]["choices"]


def test_a_group_or_one_setting_is_listed_a_line_each(saemill: Callable[..., tuple[object, str, str]]) -> None:
    code, out, _ = saemill("settings", "ray")
    assert (code, [line.split("\t")[0].partition(".")[0] for line in out.splitlines()].count("ray")) == (
        0,
        len(out.splitlines()),
    )
    _, out, _ = saemill("settings", "sae.k")
    assert out.split("\t")[:4] == ["sae.k", "whole number", "32", "at least 1, below 2,147,483,648"]
    assert saemill("settings", "sea") == (2, "", "saemill: Unknown setting 'sea'; did you mean sae?\n")


@pytest.mark.parametrize(
    "words, found",
    [
        (["run", "--set", "sae.d_"], {"sae.d_in=", "sae.d_sae="}),
        (["run", "--set", "sae.arch=top"], {"sae.arch=topk"}),
        (["run", "--set", "train.use_gpu="], {f"train.use_gpu={value}" for value in ("auto", "true", "false")}),
        (["status", "configs/to"], {"configs/toy.yaml"}),
        (["run", "conf"], {"configs/"}),
        (["settings", "sw"], {"sweep"}),
        (["ini"], {"init"}),
    ],
)
def test_the_shell_completes_names_and_files(
    words: list[str], found: set[str], saemill: Callable[..., tuple[object, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    # What bash asks the program with, in place of arguments.
    monkeypatch.setenv("_SAEMILL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["saemill", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    code, out, err = saemill()
    assert (code, set(out.split())) == (0, found), err


def test_completion_can_be_installed(saemill: Callable[..., tuple[object, str, str]]) -> None:
    assert "--install-completion" in saemill("--help")[1]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two tiny models and a corpus, as current directory."""
    words = Tokenizer(WordLevel({"<eos>": 0, "<unk>": 1} | {word: i for i, word in enumerate(WORDS, 2)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=52, n_embd=32, n_layer=5, n_head=2, n_positions=48))
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, model in {"gpt2": gpt2, "llama": LlamaForCausalLM(LlamaConfig(vocab_size=52, **sizes))}.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    text = "\n\n".join(" ".join(WORDS[(i + j) % 50] for j in range(40)) for i in range(100))
    (tmp_path / "corpus.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_configuration_that_fits_the_model(own: Path, saemill: Callable[..., tuple[object, str, str]]) -> None:
    code, out, err = saemill("init", "gpt2", "--text", "corpus.txt")
    assert (code, out) == (0, "gpt2.yaml\n"), err
    assert err.splitlines()[-1] == "saemill run gpt2.yaml"
    config = load_config("gpt2.yaml")
    check(config)
    assert config.harvest.hooks == ["transformer.h.2"], "of five blocks"
    assert config.report.title == "gpt2, residual stream after block 2"
    assert config.sae.d_sae == 8 * 32
    assert config.text.context_length == 32, "the model has 48 positions"
    assert config.train.tokens == 10_000, "1.5 times the corpus' 27,490 bytes at 4 bytes a token, in two digits"
    assert (config.text.max_tokens or 0) > 100_000, "a bound, for what the corpus may grow to"
    assert config.train.workers <= (os.cpu_count() or 1)
    lines = (own / "gpt2.yaml").read_text().splitlines()
    assert all("#" in line for line in lines if line.strip() and not line.endswith(":")), "every line is explained"


def test_init_takes_a_hook_and_leaves_what_is_there(own: Path, saemill: Callable[..., tuple[object, str, str]]) -> None:
    arguments = ["init", "llama", "--text", "corpus.txt", "--hook", "model.layers.1.mlp:input", "--out", "my own.yaml"]
    assert saemill(*arguments)[:2] == (0, "my own.yaml\n")
    assert load_config("my own.yaml").harvest.hooks == ["model.layers.1.mlp:input"]
    before = (own / "my own.yaml").read_bytes()
    code, out, err = saemill(*arguments)
    assert (code, out) == (2, "")
    assert "'my own.yaml' is there already" in err
    assert (own / "my own.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["nowhere", "--text", "corpus.txt"], "nowhere"),
        (["llama", "--text", "nowhere.txt"], "nowhere.txt"),
        (["", "--text", "corpus.txt"], "MODEL: name is ''"),
        (["a\x01", "--text", "corpus.txt"], "MODEL: "),
        (["\udcff", "--text", "corpus.txt"], "surrogate"),
        (["llama", "--text", "a\x01.txt"], "--text"),
        (["llama", "--text", ""], "--text: source is ''"),
        (["llama", "--text", "\udcff.txt"], "surrogate"),
        (["llama", "--text", "corpus.txt", "--column", "a\x01"], "control character"),
        (["llama", "--text", "corpus.txt", "--storage", "a\x01"], "control character"),
        (["llama", "--text", "corpus.txt", "--hook", "model.layers.9"], "model.layers.9"),
        (["llama", "--text", "corpus.txt", "--out", "no/such/folder.yaml"], "cannot be written"),
        (["llama", "--text", "corpus.txt", "--out", "x" * 300], "cannot be written"),
        (["llama"], "--text"),
    ],
)
def test_init_refuses_what_cannot_be_run(
    arguments: list[str],
    told: str,
    own: Path,
    saemill: Callable[..., tuple[object, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    there = sorted(own.iterdir())
    code, out, err = saemill("init", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert told in err
    assert sorted(own.iterdir()) == there, "something was written"


def test_init_on_a_full_disk_says_so(
    own: Path, saemill: Callable[..., tuple[object, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.activations.disk_space.free_bytes", lambda *_: 0)
    code, out, err = saemill("init", "llama", "--text", "corpus.txt")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "math domain" not in err


@pytest.mark.parametrize(
    "word", [".5", ".inf", ".nan", ".5e3", "-.inf", "_1", "a.5", ".e", "true", "~", "1e5", "./x", ".", "null"]
)
def test_a_word_in_the_file_of_init_is_read_back_as_itself(word: str) -> None:
    assert parse(f"storage: {_yaml(word)}") == {"storage": word}


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    assert on_one_line("a\n  b\r\nc\u2028d\x85e") == "a b c d e"
    assert on_one_line("x\x1b[31m\x00\ud800\u202e") == "x\\x1b[31m\\x00\\ud800\\u202e"
    assert on_one_line("two  spaces 'é'") == "two  spaces 'é'"
    assert len(on_one_line("x" * 100_000)) < 2100
