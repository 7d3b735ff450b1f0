"""Nights on rows of a growing corpus, really trained; stages run in this process, as Ray's workers would run them."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.addresses import Placed
from flows.config import PipelineConfig, parse_config
from flows.night.run import Step, run_night, work_of
from flows.night.telling import as_object, headline, markdown, telling_failures
from flows.night.tonight import Night
from tasks.errors import InputError
from tasks.identity.stored import read_line
from tasks.progress import silent
from tasks.registry.moving import considered, position, promote, rollback
from tasks.registry.names import CHAMPION
from tasks.registry.nights import Nights
from tasks.registry.records import Signed
from tasks.registry.registry import Registry
from tasks.registry.verdicts import verdict_of
from tasks.sae.content import content_of
from tasks.sae.mesh import OneProcess
from tasks.storage.artifacts import read_manifest
from tasks.storage.objects import open_store
from tasks.train.finish import close
from tasks.train.stage import TrainStage
from tasks.train.worker import Worker
from tests.nights.hook import Hook, listening_hook

D_IN, A_NIGHT = 16, 3000
DICTIONARY = np.random.default_rng(0).normal(size=(40, D_IN))
SIGNED = Signed.now("ada@engine")


@dataclass
class Corpus:
    """Rows that grow, and the settings of nights on them."""

    folder: Path
    hook: Hook
    nights: int = 0

    def grow(self) -> None:
        self.nights += 1
        rng = np.random.default_rng(self.nights)
        codes = rng.exponential(size=(A_NIGHT, 40)) * (rng.random((A_NIGHT, 40)) < 0.1)
        rows = (codes @ DICTIONARY + 3).astype(np.float32)
        there = [np.load(self.folder / "rows.npy")] if self.nights > 1 else []
        np.save(self.folder / "rows.npy", np.concatenate([*there, rows]))

    def config(self, **more: Any) -> PipelineConfig:
        train = {"tokens": 25_600, "batch_tokens": 128, "lanes": 4, "workers": 1, "precision": "fp32", "lr": 0.01}
        settings: dict[str, Any] = {
            "name": "toy",
            "storage": str(self.folder / "runs"),
            "activations": {"source": str(self.folder / "rows.npy"), "eval_fraction": 0.3},
            "sae": {"d_sae": 48, "k": 4},
            "train": {**train, "init_from": "toy@champion"},
            "score": {"baseline_tokens": 256},
            "registry": {"name": "toy"},
            "gates": {"auto_promote": True},
            "notify": {"webhook": self.hook.url},
        }
        return parse_config({**settings, **more})

    @property
    def registry(self) -> Registry:
        return Registry.at(str(self.folder / "runs"), "toy")

    @property
    def champion(self) -> int | None:
        found = position(self.registry, CHAMPION)
        return None if found is None else found.move.version

    def night(self, do: Callable[[str, Step], Any] | None = None, **more: Any) -> Night:
        config = self.config(**more)
        with telling_failures(config) as tell:
            return run_night(config, call, do or usually, tell)


Two = tuple[Corpus, list[Night], list[list[str]]]
"""A corpus after two nights, what came of each, and the names of the events that it sent."""


def usually(_: str, step: Step) -> Any:
    return step(silent)


def call(stage: Placed) -> None:
    """Run a stage; of a training, what one worker does."""
    if not isinstance(stage.stage, TrainStage) or stage.finished:
        stage.run(silent)
        return
    settings, rows = stage.stage.settings, stage.stage.activations
    if settings.train.init_from is not None:
        settings = replace(settings, init_content=content_of(settings.train.init_from))
    worker = Worker(settings, rows, stage.out, OneProcess())
    close(settings, rows, stage.out, worker.finish(worker.train()), {})


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A corpus after two nights, what came of them, and the events that each sent."""
    folder = tmp_path_factory.mktemp("nights")
    with listening_hook() as hook:
        corpus, found, names = Corpus(folder, hook), [], []
        for _ in range(2):
            corpus.grow()
            found.append(corpus.night())
            names.append(hook.names)
            hook.requests.clear()
        yield corpus, found, names


@pytest.fixture
def after_one(nights: Two, tmp_path: Path, hook: Hook) -> Corpus:
    """A copy as it was after the first night, with the rows of the second; what the second trained is there already."""
    shutil.copytree(nights[0].folder, tmp_path, dirs_exist_ok=True)
    registry = tmp_path / "runs/registry/toy"
    for record in ("versions/00000002", "aliases/challenger/00000002", "aliases/champion/00000002"):
        (registry / f"{record}.json").unlink(missing_ok=True)
    for folder in (*(registry / "nights").iterdir(), registry / "verdicts"):
        for record in folder.iterdir():
            if record.stem != "00000001":
                record.unlink()
    for folder in (tmp_path / "runs/reports").glob("toy-latents-*"):
        shutil.rmtree(folder)
    return Corpus(tmp_path, hook, 2)


def test_the_first_night_begins_from_drawn_weights_and_becomes_champion(
    nights: Two,
) -> None:
    corpus, (first, _), (names, _) = nights
    assert (first.done.version, first.done.champion, first.done.verdict, first.done.promoted) == (1, None, None, True)
    assert "init_from" not in (read_manifest(corpus.registry.uri_of(corpus.registry.version(1))) or {})
    assert names == ["saemill.version.registered", "saemill.alias.moved", "saemill.night.finished"]
    assert first.done.new_tokens == first.done.tokens == A_NIGHT
    assert headline(first) == "toy@1 is the first; it is the champion now"


def test_the_next_night_begins_from_the_champion_is_judged_and_followed(
    nights: Two,
) -> None:
    corpus, (_, night), (_, names) = nights
    done, registry = night.done, corpus.registry
    champion = registry.version(1)
    assert (read_manifest(registry.uri_of(registry.version(2))) or {})["init_from"] == champion.content
    assert registry.version(2).parents.champion == 1
    assert (done.version, done.champion, done.tokens) == (2, 1, 2 * A_NIGHT)
    verdict = verdict_of(registry.root, "toy", 2, 1)
    assert verdict is not None
    assert (verdict.verdict, done.promoted) == (done.verdict, done.verdict == "PROMOTE")
    assert corpus.champion == (2 if done.promoted else 1)
    assert sum(done.shares[name] for name in ("same", "drifted", "split", "died")) <= 1.0
    assert done.shares["same"] + done.shares["drifted"] >= 0.6, "it began from the champion"
    assert done.corpus_drift is not None
    assert 0 <= done.corpus_drift < 0.1
    assert done.rate_drift is not None
    assert 1 <= done.rate_drift < 2
    assert done.matched is not None
    line = read_line(f"{registry.root}/{done.matched}")
    assert {stable_id.split(".")[1] for stable_id in line.ids} <= {"1", "2"}
    assert names[:2] == ["saemill.version.registered", "saemill.gate.verdict"]
    assert names[-1] == "saemill.night.finished"


def test_the_page_of_a_night_says_what_to_do_and_leads_to_report_and_history(
    nights: Two,
) -> None:
    corpus, (_, night), _ = nights
    page = markdown(night)
    assert page.startswith(f"## toy@2 against the champion toy@1: {night.done.verdict}")
    assert ("saemill rollback toy" in page) == night.done.promoted
    assert f"{Path(corpus.registry.root, night.done.report).as_uri()}/index.html" in page
    assert "reports/toy-nights/index.html" in page
    assert len(page.split()) < 200, "read in a minute"
    assert json.dumps(as_object(night))
    history = Path(corpus.registry.root, "reports/toy-nights")
    html = (history / "index.html").read_text()
    links = re.findall(r'href="([^"#]+)"', html)
    assert len(links) >= 5
    assert all((history / link).is_file() for link in links)


def test_a_night_on_which_nothing_is_new_does_nothing(nights: Two) -> None:
    corpus, (_, second), _ = nights

    def never(name: str, step: Step) -> Any:
        raise AssertionError(name)

    again = corpus.night(never)
    assert not again.is_new
    assert again.done == second.done
    assert again.result.version == "toy@2"
    assert corpus.hook.requests == []
    assert len(corpus.registry.versions.numbers()) == 2
    assert headline(again).startswith("nothing is new since toy@2 of ")


class KilledError(BaseException):
    """What ends a process."""


def killed(at: str, *, after: bool) -> Callable[[str, Step], Any]:
    """Steps that end the process before or after one of them."""

    def do(name: str, step: Step) -> Any:
        if name == at and not after:
            raise KilledError
        found = step(silent)
        if name == at:
            raise KilledError
        return found

    return do


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", ["gate", "match", "promote", "retain"])
def test_a_night_that_was_killed_ends_as_if_it_had_not_been(after_one: Corpus, nights: Two, at: str, after: bool) -> None:
    assert after_one.champion == 1
    with pytest.raises(KilledError):
        after_one.night(killed(at, after=after))
    assert after_one.champion in (1, 2)
    night, (_, expected) = after_one.night(), nights[1]
    same = ("version", "champion", "verdict", "promoted", "shares", "tokens", "new_tokens", "metrics", "failed_gates")
    assert {name: getattr(night.done, name) for name in same} == {name: getattr(expected.done, name) for name in same}
    assert after_one.registry.versions.numbers() == [1, 2]
    assert Nights(after_one.registry).done.numbers() == [1, 2]
    assert after_one.champion == (2 if expected.done.promoted else 1)
    assert not after_one.night().is_new


def test_what_somebody_did_meanwhile_is_not_undone(after_one: Corpus) -> None:
    registry = after_one.registry

    def do(name: str, step: Step) -> Any:
        if name == "promote":
            promote(registry, considered(registry, 2, force=True), SIGNED, "by hand")
            rollback(registry, SIGNED, "on second thoughts")
            promote(registry, considered(registry, 2, force=True), SIGNED, "after all")
        return step(silent)

    after_one.night(do)
    found = position(registry, CHAMPION)
    assert found is not None
    assert (found.move.version, found.move.why) == (2, "after all")


def test_a_killed_night_does_not_undo_a_rollback(after_one: Corpus) -> None:
    registry = after_one.registry
    with pytest.raises(KilledError):
        after_one.night(killed("match", after=True))
    promote(registry, considered(registry, 2, force=True), SIGNED, "by hand")
    rollback(registry, SIGNED, "on second thoughts")
    assert not after_one.night().done.promoted
    assert after_one.champion == 1


def test_ids_go_on_from_a_night_that_promoted_and_was_never_recorded(after_one: Corpus) -> None:
    with pytest.raises(KilledError):
        after_one.night(killed("match", after=True))
    promote(after_one.registry, considered(after_one.registry, 2, force=True), SIGNED, "as the night did")
    after_one.grow()
    third = after_one.night().done
    assert (third.version, third.champion) == (3, 2)
    line = read_line(f"{after_one.registry.root}/{third.matched}")
    assert "1" in {stable_id.split(".")[1] for stable_id in line.ids}


def test_settings_may_go_back_and_forth(after_one: Corpus) -> None:
    other = {"sae": {"d_sae": 48, "k": 5}, "gates": {}}
    assert after_one.night(gates={}).is_new
    assert after_one.night(**other).is_new
    versions = after_one.registry.versions.numbers()
    assert not after_one.night(gates={}).is_new
    assert not after_one.night(**other).is_new
    assert after_one.registry.versions.numbers() == versions


def test_frozen_rows_stay_and_what_cannot_be_tidied_up_fails_nothing(after_one: Corpus) -> None:
    first = after_one.registry.version(1)
    frozen = f"{after_one.registry.root}/activations/toy-{first.parents.activations}"
    gates = {"auto_promote": True, "activations": frozen}
    night = after_one.night(gates=gates, registry={"name": "toy", "keep_versions": 1, "keep_champion_days": 0})
    assert read_manifest(frozen) is not None
    assert night.done.champion_fvu_before is None, "the same rows tell of no drift"
    assert night.done.stored_bytes is not None
    assert night.done.stored_bytes > 0
    open_store(f"{after_one.registry.root}/scores/toy-{'0' * 12}").put("manifest.json", b"no json")
    after_one.grow()
    hurt = after_one.night(gates=gates).done
    assert "manifest.json" in hurt.retention_error
    assert hurt.stored_bytes is None


def test_without_auto_promote_a_verdict_is_all(after_one: Corpus) -> None:
    night = after_one.night(gates={"rules": [{"metric": "fvu", "margin": 0.0, "tolerance": 0.0}]})
    assert night.done.verdict in ("PROMOTE", "REJECT")
    assert not night.done.promoted
    assert after_one.champion == 1


def test_a_night_that_fails_tells_why_and_the_error_goes_on(after_one: Corpus) -> None:
    def do(name: str, step: Step) -> Any:
        raise OSError("the storage at s3://key:secret@host is away")

    with pytest.raises(OSError, match="is away"):
        after_one.night(do)
    assert after_one.hook.names == ["saemill.night.failed"]
    (event,) = after_one.hook.events
    assert event["text"] == "saemill: the night of toy failed: the storage at s3://***@host is away"
    assert after_one.champion == 1


def test_a_night_needs_a_name_for_its_versions(tmp_path: Path, hook: Hook) -> None:
    with pytest.raises(InputError, match=r"registry\.name is empty"):
        Corpus(tmp_path, hook).night(registry={})


def test_another_settings_is_another_nights_work(nights: Two) -> None:
    corpus, _, _ = nights
    usual = work_of(corpus.config())
    assert work_of(corpus.config(gates={}, notify={})) == usual
    assert work_of(corpus.config(sae={"d_sae": 48, "k": 5})) != usual
    assert work_of(corpus.config(train={**corpus.config().train.model_dump(), "init_lr_factor": 0.25})) != usual
