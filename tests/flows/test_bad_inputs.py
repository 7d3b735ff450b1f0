"""Wrong input: exit code 2, one sentence that names it, no traceback, and nothing written."""

from pathlib import Path

import numpy as np
import pytest

from flows.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, with what a user might get wrong beside it."""
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "broken.parquet").write_bytes(b"PAR1 but nothing behind it")
    (beside / "broken.yaml").write_text("sae: [1, 2")
    (beside / "list.yaml").write_text("- 1")
    (beside / "file").write_text("not a folder")
    np.save(beside / "cube.npy", np.zeros((2, 3, 4), dtype=np.float32))
    np.save(beside / "four.npy", np.zeros((20, 4), dtype=np.float32))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


DEMO = str(ROOT / "configs/demo.yaml")
CORPUS = f"text.source={ROOT / 'configs/data/sotu.parquet'}"
LAYERS = "harvest.hooks=[model.layers.4, model.layers.8]"
BAD = {
    "k above d_sae": (["sae.k=99999"], "sae.k is 99999 but must lie in 1..4608"),
    "k of zero": (["sae.k=0"], "sae.k is 0"),
    "unknown setting": (["sae.colour=3"], "Unknown setting 'sae.colour'; allowed here: arch,"),
    "unknown group": (["sea.k=3"], "Unknown setting 'sea.k'; did you mean sae.k"),
    "text for a number": (["train.tokens=many"], "train.tokens is 'many'"),
    "number for a list": (["harvest.hooks=8"], "harvest.hooks is 8"),
    "unknown architecture": (["sae.arch=magic"], "sae.arch is 'magic'"),
    "a value where a group is": (["sae.k.x=1"], "sae.k is a value"),
    "not an override": (["sae.k"], "--set 'sae.k' is not of the form"),
    "negative length": (["text.context_length=-1"], "text.context_length is -1"),
    "learning rate of zero": (["train.lr=0"], "train.lr is 0"),
    "parts of the latents that do not divide the workers": (
        ["train.workers=2", "train.latent_shards=4"],
        "train.latent_shards is 4 but must divide train.workers (2)",
    ),
    "parts of the latents that are not equal": (
        ["train.workers=2", "train.latent_shards=2", "sae.d_sae=4607"],
        "train.latent_shards is 2 but must divide sae.d_sae (4607)",
    ),
    "workers that do not divide the lanes": (["train.workers=3"], "train.workers is 3 but must divide train.lanes (16)"),
    "more workers than CPUs": (["ray.num_cpus=1"], "train.workers is 2 with 1 CPUs each, but the local Ray cluster has 1"),
    "more actors than CPUs": (["harvest.actors=999"], "harvest.actors is 999 with 1 CPUs each"),
    "a batch that lanes do not divide": (["train.batch_tokens=1000"], "train.batch_tokens is 1000"),
    "less than one batch": (["train.tokens=16"], "train.tokens is 16"),
    "training on what is not harvested": (["train.hook=lm_head"], "train.hook is 'lm_head' but must be one of"),
    "no corpus named": (["text.source=null"], "text.source is empty"),
    "missing corpus": (["text.source=nowhere.parquet"], "nowhere.parquet"),
    "unreadable corpus": (["text.source=../beside/broken.parquet"], "broken.parquet"),
    "corpus of an unknown kind": (["text.source=../beside/file"], "file"),
    "missing column": ([CORPUS, "text.column=body"], "body"),
    "missing title column": ([CORPUS, "text.title_columns=[author]"], "author"),
    "missing model": ([CORPUS, "model.name=./no_such_model"], "no_such_model"),
    "hook that the model lacks": ([CORPUS, "harvest.hooks=[model.layers.99]"], "model.layers.99"),
    "d_in that disagrees": ([CORPUS, "sae.d_in=999"], "sae.d_in is 999 but model.layers.8 is 576 wide"),
    "d_in of one hook of several": (
        [CORPUS, LAYERS, "train.hooks=[model.layers.8, model.layers.4]", "sae.d_in=576"],
        "sae.d_in is 576 but model.layers.8 + model.layers.4 is 1152 wide",
    ),
    "a target that is not harvested": (
        [LAYERS, "train.target_hook=lm_head"],
        "train.target_hook is 'lm_head'",
    ),
    "a target that is what is read": ([LAYERS, "train.target_hook=model.layers.4"], "which is what is read"),
    "a target of several hooks": ([LAYERS, "train.hooks=[model.layers.4]", "train.target_hook=model.layers.8"], "both set"),
    "a hook named twice": ([LAYERS, "train.hooks=[model.layers.4, model.layers.4]"], "must name each hook once"),
    "a path past the latents of an SAE": (["sae.skip=true"], "sae.skip is on"),
    "event files in a bucket": (["train.tensorboard=s3://bucket/events"], "but must be a folder"),
    "no room on disk": (
        [CORPUS, "train.tokens=1B", "train.checkpoint_every_tokens=1024", "train.keep_checkpoints=1000000"],
        "checkpoints",
    ),
    "storage below a file": ([CORPUS, "storage=../beside/file/runs"], "storage"),
    "storage of an unknown scheme": ([CORPUS, "storage=gs://bucket"], "storage 'gs://bucket' has an unknown scheme"),
    "missing activations": (["activations.source=nowhere.npy"], "nowhere.npy"),
    "activations of three dimensions": (["activations.source=../beside/cube.npy"], "cube.npy"),
    "d_in that disagrees with own activations": (["activations.source=../beside/four.npy", "sae.d_in=5"], "sae.d_in is 5"),
}


@pytest.mark.parametrize("overrides, named", BAD.values(), ids=BAD)
def test_a_wrong_setting_is_refused_in_a_sentence(
    overrides: list[str], named: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_refused(["run", DEMO, *(part for text in overrides for part in ("--set", text))], named, folder, capfd)


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["run", "../beside/broken.yaml"], "not valid YAML"),
        (["run", "../beside/list.yaml"], "holds a list"),
        (["run", "../beside"], "cannot be read"),
        (["run"], "CONFIG"),
        (["run", DEMO, "--fast"], "--fast"),
        (["walk", DEMO], "walk"),
        (["status", "nowhere.yaml"], "nowhere.yaml"),
        (["serve", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["serve", "--config", DEMO, "--nightly", DEMO, "--cron", "every night"], "--cron is 'every night'"),
        (["serve", "--config", DEMO, "--nightly", DEMO, "--timezone", "Mars/Olympus"], "--timezone is 'Mars/Olympus'"),
        (["serve", "--config", DEMO, "--nightly", DEMO, "--server", "http://127.0.0.1:9"], "no Prefect server answers"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_wrong_command_is_refused_in_a_sentence(
    arguments: list[str], named: str, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(folder.parent / "beside/prefect"))
    monkeypatch.setenv("PREFECT_API_URL", "")  # `serve` sets it; this has it put back
    assert_refused(arguments, named, folder, capfd)


def assert_refused(arguments: list[str], named: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    out, err = capfd.readouterr()
    assert stopped.value.code == 2, err
    assert out == ""
    assert err.startswith("saemill: ")
    assert err.count("\n") == 1, "one sentence, on one line"
    assert named in err
    assert list(folder.iterdir()) == [], "something was written"
