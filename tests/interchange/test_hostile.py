"""SAEs of other libraries that lie about themselves: refused in a sentence, for each format."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.errors import InputError
from tasks.interchange.formats import open_format
from tasks.interchange.transfer import import_sae
from tests.interchange.conftest import Make

WEIGHTS = {
    "saelens": "sae_weights.safetensors",
    "sparsify": "sae.safetensors",
    "dictionary_learning": "ae.pt",
    "circuit-tracer": "layer_3.safetensors",
}
CONFIGS = {
    "saelens": "cfg.json",
    "sparsify": "cfg.json",
    "dictionary_learning": "config.json",
    "circuit-tracer": "config.yaml",
}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def theirs(made: Make, transcoder: Make, tmp_path: Path) -> Callable[..., Path]:
    """A folder that another library might have written."""

    def write(name: Any, arch: str = "topk") -> Path:
        sae = transcoder("l1") if name == "circuit-tracer" else made(arch)
        folder = tmp_path / "theirs"
        folder.mkdir()
        for key, data in open_format(name).files(sae).items():
            (folder / key).write_bytes(data)
        return folder

    return write


def rewritten(file: Path, change: Change) -> None:
    if file.suffix == ".pt":
        tensors = torch.load(file, weights_only=True)
        change(tensors)
        torch.save(tensors, file)
    else:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)


def refused(folder: Path, name: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        import_sae(str(folder), name, str(folder.parent / "ours"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert not (folder.parent / "ours").exists()


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused(name: str, value: float, theirs: Any) -> None:
    folder = theirs(name)

    def spoil(tensors: dict[str, Any]) -> None:
        key = next(key for key, tensor in tensors.items() if tensor.ndim == 2)
        tensors[key] = tensors[key].double()
        tensors[key][1, 1] = value

    rewritten(folder / WEIGHTS[name], spoil)
    refused(folder, name, "not finite")


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "\xff\xfe", "1" * 5_000, "a: &a [*a", "{", ""])
def test_settings_that_are_none_are_refused(name: str, text: str, theirs: Any) -> None:
    folder = theirs(name)
    (folder / CONFIGS[name]).write_text(text, encoding="latin1")
    refused(folder, name, CONFIGS[name].replace(".", r"\."))


@pytest.mark.parametrize(
    "text", ["a: 2001-99-99", "a: !!int x", "a: !!timestamp x", "&a [*a]", "? [a]\n: b", "model_kind: [1]"]
)
def test_tricks_of_yaml_are_refused(text: str, theirs: Any) -> None:
    folder = theirs("circuit-tracer")
    (folder / "config.yaml").write_text(text)
    refused(folder, "circuit-tracer", r"config\.yaml")


def test_aliases_that_unfold_to_billions_take_no_memory(theirs: Any) -> None:
    folder = theirs("circuit-tracer")
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    (folder / "config.yaml").write_text("\n".join([*laughs, "model_name: *a11"]))
    refused(folder, "circuit-tracer", "model_name is")


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": [1]},
        {"metadata": {"model_name": {"a": 1}}},
        {"activation_fn_kwargs": 3},
        {"metadata": {"model_from_pretrained_kwargs": [1]}},
        {"k": 2.5},
        {"k": True},
        {"k": 10**30},
        {"architecture": ["topk"]},
    ],
    ids=str,
)
def test_settings_of_saelens_of_another_type_are_refused(change: dict[str, Any], theirs: Any) -> None:
    folder = theirs("saelens")
    settings = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(settings | change))
    refused(folder, "saelens", r"cfg\.json|cannot be one")


def expanded(tensors: dict[str, Any]) -> None:
    """A tensor of 10^12 numbers that are one."""
    tensors["encoder.weight"] = torch.zeros(1).expand(10**6, 10**6)


PT: dict[str, tuple[str, Change, str]] = {
    "threshold nan": ("batchtopk", lambda t: t.update(threshold=torch.tensor(float("nan"))), "threshold nan"),
    "threshold inf": ("batchtopk", lambda t: t.update(threshold=torch.tensor(float("inf"))), "threshold inf"),
    "threshold 1e300": ("batchtopk", lambda t: t.update(threshold=torch.tensor(1e300, dtype=torch.float64)), "threshold 1e"),
    "k nan": ("topk", lambda t: t.update(k=torch.tensor(float("nan"))), "k nan"),
    "k complex": ("topk", lambda t: t.update(k=torch.tensor(1j)), "k 1j"),
    "k of a half": ("topk", lambda t: t.update(k=torch.tensor(1.5)), "k 1.5"),
    "k of two numbers": ("topk", lambda t: t.update(k=torch.tensor([1, 2])), "no single number k"),
    "group sizes in a square": (
        "matryoshka",
        lambda t: t.update(group_sizes=torch.ones(2, 2, dtype=torch.long)),
        "group_sizes",
    ),
    "group sizes of halves": ("matryoshka", lambda t: t.update(group_sizes=torch.tensor([12.0, 12.0])), "group_sizes"),
    "sparse": ("topk", lambda t: t.update({"encoder.weight": t["encoder.weight"].to_sparse()}), "plain, dense"),
    "meta": ("topk", lambda t: t.update({"encoder.weight": t["encoder.weight"].to("meta")}), "plain, dense|cannot be read"),
    "one number seen often": ("topk", expanded, "plain, dense|does not fit"),
    "whole numbers": ("topk", lambda t: t.update({"encoder.weight": t["encoder.weight"].long()}), "floating-point"),
    "a key that is no text": ("topk", lambda t: t.update({3: torch.zeros(1)}), "no dict of tensors"),
}


@pytest.mark.parametrize("arch, change, message", PT.values(), ids=PT)
def test_tensors_of_dictionary_learning_that_cannot_be_are_refused(
    arch: str, change: Change, message: str, theirs: Any
) -> None:
    folder = theirs("dictionary_learning", "topk" if arch == "topk" else "batchtopk")
    if arch != "topk":
        as_a_class(folder, "BatchTopKSAE" if arch == "batchtopk" else "MatryoshkaBatchTopKSAE")
    rewritten(folder / "ae.pt", change)
    refused(folder, "dictionary_learning", message)


def as_a_class(folder: Path, name: str) -> None:
    """The folder as one of its classes that saemill imports and never writes."""
    settings = json.loads((folder / "config.json").read_text())
    settings["trainer"]["dict_class"] = name
    (folder / "config.json").write_text(json.dumps(settings))

    def renamed(t: dict[str, Any]) -> None:
        t |= {"k": torch.tensor(4), "threshold": torch.tensor(0.5)}
        if name == "BatchTopKSAE":
            t |= {"encoder.weight": t.pop("W_enc").T.contiguous(), "decoder.weight": t.pop("W_dec").T.contiguous()}
            t["encoder.bias"] = t.pop("b_enc")
        else:
            t["group_sizes"] = torch.tensor([12, 12])

    rewritten(folder / "ae.pt", renamed)


def test_an_archive_that_unpacks_to_any_size_is_refused(theirs: Any) -> None:
    folder = theirs("dictionary_learning")
    with zipfile.ZipFile(folder / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    refused(folder, "dictionary_learning", "compressed, which torch.save never writes")


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_place_below_a_file_is_refused(name: str, theirs: Any) -> None:
    folder = theirs(name)
    (folder.parent / "file").write_text("not a folder")
    with pytest.raises(InputError, match="cannot be written"):
        import_sae(str(folder), name, str(folder.parent / "file/ours"))  # type: ignore[arg-type]
