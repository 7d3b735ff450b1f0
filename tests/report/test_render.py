import hashlib
import json
import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.errors import ArtifactError, InputError
from tasks.latent_columns import KEY
from tasks.report.pages import asset
from tasks.report.render import ASSETS
from tests.composed import render
from tests.report.stages import Stages, language_model_stages


def contents(folder: Path) -> dict[str, bytes]:
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {key: data for key, data in files.items() if key != "run.json"}


@pytest.fixture
def broken(stages: Stages, tmp_path: Path) -> Stages:
    """A copy of the scores that a test may damage."""
    scores = tmp_path / "scores"
    shutil.copytree(stages.scores, scores)
    return replace(stages, scores=str(scores))


def test_the_manifest_lists_every_file_with_its_hash(report: Path) -> None:
    files = contents(report)
    manifest = json.loads(files.pop("manifest.json"))
    assert manifest["files"] == {
        key: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for key, data in files.items()
    }
    assert manifest["entry"] in files
    assert manifest["inputs"]["scores"] == "3456789abcde"


def test_the_same_inputs_give_the_same_bytes(stages: Stages, report: Path, tmp_path: Path) -> None:
    assert contents(stages.render(tmp_path)) == contents(report)


def test_a_finished_report_is_left_alone(stages: Stages, tmp_path: Path) -> None:
    folder = stages.render(tmp_path)
    (folder / "index.html").write_text("mine")
    stages.render(tmp_path)
    assert (folder / "index.html").read_text() == "mine"


def test_a_killed_report_is_finished_by_the_next(stages: Stages, report: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/index.js").write_text("half")
    assert contents(stages.render(tmp_path)) == contents(report)


@pytest.mark.s3
def test_an_s3_report_is_the_same_and_its_pages_open_rather_than_download(stages: Stages, report: Path, s3: str) -> None:
    import s3fs

    out = f"{s3}/a-report"
    render(stages.config, stages.tokens, stages.activations, stages.sae, stages.scores, out)
    files = s3fs.S3FileSystem(use_listings_cache=False)
    assert {key: files.cat_file(f"{out}/{key}") for key in contents(report)} == contents(report)
    for key, kind in {"index.html": "text/html", "assets/site.css": "text/css", "assets/icon.svg": "image/svg+xml"}.items():
        assert files.info(f"{out}/{key}")["ContentType"] == kind


def test_nothing_on_the_pages_comes_from_elsewhere(report: Path) -> None:
    for key, data in contents(report).items():
        if key.startswith("assets/") or key == "index.html":
            assert set(re.findall(rb"(?:https?:)?//[a-z][\w.]+", data)) <= {b"http://www.w3.org"}, key


@pytest.mark.parametrize("name", [name for name in ASSETS if name.endswith(".js")])
def test_scripts_make_text_only_by_text_nodes(name: str) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\bfetch\(|XMLHttpRequest|import "
    )
    assert re.findall(forbidden, re.sub(r"/\*.*?\*/", "", asset(name).decode(), flags=re.DOTALL)) == []


def test_titles_and_settings_are_escaped(tmp_path: Path) -> None:
    title = "<script>alert('1')</script> & co"
    page = (language_model_stages(tmp_path, 40, title=title).render(tmp_path / "report") / "index.html").read_text()
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &amp; co") >= 3


def test_the_overview_says_what_was_done_in_one_sentence(report: Path, labelled_report: Path) -> None:
    assert (
        "A TopK sparse autoencoder with 200 latents (k = 32), trained on the activations (576 features) of 1,000,448 tokens "
        "at model.layers.8 of SmolLM2-135M-Instruct, scored on 102,144 held-out tokens."
    ) in (report / "index.html").read_text()
    own = (labelled_report / "index.html").read_text()
    assert "An L1 sparse autoencoder with 12 latents" in own
    assert "of the training rows themselves" in own
    assert "Cross-entropy" not in own


def test_a_site_of_the_demos_size_stays_small(tmp_path: Path) -> None:
    folder = language_model_stages(tmp_path, 4608).render(tmp_path / "report")
    sizes = {key: len(data) for key, data in contents(folder).items()}
    assert sum(sizes.values()) < 30e6
    assert sizes["data/index.js"] < 2e6
    assert max(size for key, size in sizes.items() if key.startswith("data/latents-")) < 400e3


def test_unfinished_scores_are_refused(broken: Stages, tmp_path: Path) -> None:
    Path(broken.scores, "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="unfinished or absent"):
        broken.render(tmp_path / "report")


def test_a_missing_file_is_named(broken: Stages, tmp_path: Path) -> None:
    Path(broken.scores, "summary.json").unlink()
    with pytest.raises(ArtifactError, match=r"summary\.json is missing"):
        broken.render(tmp_path / "report")


def test_a_damaged_table_is_named(broken: Stages, tmp_path: Path) -> None:
    Path(broken.scores, "latents.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ArtifactError, match=r"latents\.parquet is not readable Parquet"):
        broken.render(tmp_path / "report")


def test_a_table_without_a_column_is_named(broken: Stages, tmp_path: Path) -> None:
    path = Path(broken.scores, "examples.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["peak"]), path)
    with pytest.raises(ArtifactError, match=r"examples\.parquet lacks the columns \['peak'\]"):
        broken.render(tmp_path / "report")


def test_latents_must_be_numbered_without_gaps(broken: Stages, tmp_path: Path) -> None:
    path = Path(broken.scores, "latents.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ArtifactError, match="does not number its latents"):
        broken.render(tmp_path / "report")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (b"[", "Invalid JSON"),
        (b'[{"name": "density", "title": "Density"}]', "0.tip: Field required"),
        (b'[{"name": "density", "title": "D", "tip": "", "style": "loud"}]', "0.style: Input should be"),
        (b'[{"name": "peakiness", "title": "P", "tip": ""}]', "there is no column 'peakiness'"),
        (b'[{"name": "promoted", "title": "P", "tip": ""}]', "the column 'promoted' holds list<.*, not numbers"),
    ],
)
def test_columns_that_are_described_wrongly_are_told_in_a_sentence(
    broken: Stages, tmp_path: Path, words: bytes, told: str
) -> None:
    path = Path(broken.scores, "latents.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({KEY: words}), path)
    with pytest.raises(ArtifactError, match=rf"latents\.parquet: .*{told}.* run again"):
        broken.render(tmp_path / "report")


@pytest.mark.parametrize("metrics", [{}, [1], [{"name": "fvu", "value": 1}], [{"name": 1, "value": 1, "definition": ""}]])
def test_metrics_that_are_no_list_of_metrics_are_told_in_a_sentence(broken: Stages, tmp_path: Path, metrics: object) -> None:
    path = Path(broken.scores, "summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": metrics}))
    with pytest.raises(ArtifactError, match=r"summary\.json has metrics that are no list"):
        broken.render(tmp_path / "report")


def test_an_older_score_without_a_column_that_is_only_shown_is_shown_without_it(broken: Stages, tmp_path: Path) -> None:
    path = Path(broken.scores, "latents.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["decoder_norm"]), path)
    page = (broken.render(tmp_path / "report") / "index.html").read_text()
    assert 'data-sort="encoder_decoder_cosine"' in page
    assert 'data-sort="decoder_norm"' not in page


def test_a_disk_that_fills_up_is_told_and_the_report_is_finished_once_there_is_room(
    stages: Stages, report: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(InputError, match="There is no room for"):
            stages.render(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "manifest.json").exists()
    assert contents(stages.render(tmp_path)) == contents(report)
