"""The card of a hub repository: what the hub reads of it, its figures, and its snippets, which are run as they stand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.publish.card import text
from tests.publish.conftest import D_IN, DEAD, N_LATENTS, Build, Inputs


@pytest.fixture
def hub(make: Build) -> Path:
    return Path(make(["hf"], license="apache-2.0").uri, "hub")


def snippets(hub: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (hub / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def test_the_hub_reads_licence_model_tags_and_measured_results(hub: Path, inputs: Inputs) -> None:
    data = ModelCard((hub / "README.md").read_text()).data
    assert (data.license, data.base_model, data.library_name) == ("apache-2.0", "org/tiny-model", "saelens")
    assert "sparse-autoencoder" in (data.tags or [])
    summary = json.loads(Path(inputs.scores, "summary.json").read_text())
    found = {each.metric_type: each.metric_value for each in data.eval_results or []}
    named = ("fvu", "fvu_without_high_norm", "l0", "dead_fraction", "dense_fraction", "ce_recovered")
    assert found == {name: pytest.approx(summary[name], rel=1e-5) for name in named}


def test_what_was_not_measured_is_left_out(make: Build, inputs: Inputs, tmp_path: Path) -> None:
    scores = tmp_path / "scores/run-3456789abcde"
    scores.mkdir(parents=True)
    for path in Path(inputs.scores).iterdir():
        (scores / path.name).write_bytes(path.read_bytes())
    summary = json.loads((scores / "summary.json").read_text())
    summary |= {"ce": None, "ce_recovered": None}
    (scores / "summary.json").write_text(json.dumps(summary))
    page = Path(make(["hf"], scores=[str(scores)]).uri, "hub/README.md").read_text()
    assert "CE recovered" not in page
    assert "ce_recovered" not in page
    assert "FVU" in page


def test_the_table_has_the_measured_figures(hub: Path) -> None:
    page = (hub / "README.md").read_text()
    [head] = [line for line in page.splitlines() if line.startswith("| SAE |")]
    [row] = [line for line in page.splitlines() if line.startswith("| model.layers.8 |")]
    cells = dict(zip(_cells(head), _cells(row), strict=True))
    assert (cells["FVU"], cells["L0"], cells["CE recovered"], cells["latents"]) == ("0.0912", "32", "0.957", "120")
    assert cells["reads"] == "`model.layers.8`"
    assert "3,930 first positions" in page


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_twelve_latents_that_fire_are_shown_and_what_they_fire_on_is_bold(hub: Path) -> None:
    page = (hub / "README.md").read_text()
    latents = [int(n) for n in re.findall(r"^\*\*Latent (\d+)\*\*", page, re.MULTILINE)]
    assert len(set(latents)) == 12
    assert DEAD not in latents
    assert len(re.findall(r"^- [\d.]+: .*\*\*\S.*\*\*", page, re.MULTILINE)) == 36


def test_tokens_cannot_break_the_page() -> None:
    assert text("</script><b>") == "&lt;/script&gt;&lt;b&gt;"
    assert text("a|b*c_d`e\n[f](g)") == r"a\|b\*c\_d\`e" + "\u23ce" + r"\[f\](g)"


def test_the_first_snippet_gives_codes(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hub)
    here = _run(snippets(hub)[0])
    assert here["codes"].shape == (4, N_LATENTS)
    assert here["x_hat"].shape == (4, D_IN)
    assert (here["codes"] > 0).sum(dim=1).tolist() == [4, 4, 4, 4]


def test_the_last_snippet_gives_codes_of_what_a_model_computes(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model lies where the hub's id is a path."""
    save_model(hub / "org/tiny-model")
    monkeypatch.chdir(hub)
    [snippet] = [each for each in snippets(hub) if "AutoModelForCausalLM" in each]
    here = _run(snippet)
    assert here["codes"].shape == (1, 6, N_LATENTS)


def test_snippets_of_other_libraries_are_there_for_what_they_can_hold(hub: Path) -> None:
    """They are run by ``python -m tests.benchmarks.operations.publish``, in those libraries' environments."""
    found = [each for each in snippets(hub) if "sae_lens" in each or "sparsify" in each]
    assert len(found) == 2
    for snippet in found:
        (folder,) = re.findall(r'load_from_disk\("(.*?)"\)', snippet)
        assert (hub / folder / "cfg.json").exists()


def _run(snippet: str) -> dict[str, Any]:
    here: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), here)
    return here


def save_model(folder: Path) -> None:
    sizes = {"hidden_size": D_IN, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    words = ["<unk>", *["Four", "score", "and", "seven", "years", "ago"]]
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), num_hidden_layers=9, **sizes)).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
