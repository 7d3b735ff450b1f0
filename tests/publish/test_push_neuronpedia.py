"""Uploads to a server with Neuronpedia's rules: each latent there once, whatever goes wrong."""

import io
import json
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tasks.errors import InputError, SaemillError
from tasks.progress import silent
from tasks.publish import pushing
from tasks.publish.neuronpedia.client import client
from tasks.publish.neuronpedia.push import LEDGER, PushedSets
from tests.flows.test_cli import exit_code
from tests.kills.processes import told
from tests.publish.conftest import Build, Inputs, firing
from tests.publish.fake_neuronpedia import KEY, State, Troubles, neuronpedia, new_set, upload
from tests.sampled import sampled

LONGEST_S, SETTLE_S = 0.02, 0.15
PLACE = "tiny-model/8-tiny-saes"

Send = Callable[..., PushedSets]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEURONPEDIA_API_KEY", KEY)
    # Waits between tries are as long as a call is at work, not seconds.
    waits(monkeypatch, lambda seconds: time.sleep(min(seconds, SETTLE_S)))


def waits(monkeypatch: pytest.MonkeyPatch, wait: Callable[[float], None]) -> None:
    monkeypatch.setattr(pushing, "client", lambda where: replace(client(where), sleep=wait))


@pytest.fixture
def server() -> Iterator[tuple[str, State]]:
    with neuronpedia() as found:
        yield found


def send(folder: str, base: str, **more: Any) -> PushedSets:
    found = pushing.push(folder, f"neuronpedia:{base}", silent, settle_s=SETTLE_S, **more)
    assert isinstance(found, PushedSets)
    return found


def expected(inputs: Inputs) -> set[int]:
    return set(firing(pq.read_table(f"{inputs.scores}/latents.parquet").to_pylist()))


def assert_each_once(state: State, inputs: Inputs) -> None:
    """Every latent that fires, with all of its contexts and none twice."""
    assert {index for _, _, index in state.features} == expected(inputs)
    assert {len(found) for found in state.activations.values()} == {14}
    for found in state.activations.values():
        assert len({json.dumps(each) for each in found}) == 14


def test_a_server_gets_each_latent_that_fires_with_its_contexts(
    make: Build, server: tuple[str, State], inputs: Inputs
) -> None:
    base, state = server
    found = send(make(["neuronpedia"]).uri, base)
    assert (found.server, found.latents, found.pages) == (base, 119, (f"{base}/{PLACE}",))
    assert_each_once(state, inputs)
    assert state.asked == {"/api/model/new": 1, "/api/source-set/new": 1, "/api/feature/upload-batch": 1}
    assert state.models["tiny-model"]["layers"] == 30
    assert state.models["tiny-model"]["hfRepoId"] == "org/tiny-model"


def test_the_same_again_sends_nothing(make: Build, server: tuple[str, State], inputs: Inputs) -> None:
    base, state = server
    uri = make(["neuronpedia"]).uri
    first = send(uri, base)
    before = state.asked.copy()
    assert send(uri, base) == first
    assert state.asked == before


TROUBLES = {
    "too many calls": Troubles(too_many=0.5),
    "a server that fails before or after it has done the call": Troubles(failed_before=0.2, failed_after=0.3),
    "connections that break before or after it has": Troubles(dropped_before=0.2, dropped_after=0.3, longest_s=LONGEST_S),
    "all of it": Troubles(0.1, 0.1, 0.15, 0.1, 0.15, LONGEST_S),
}


@pytest.mark.parametrize("trouble", sampled(TROUBLES, share=0.5))
def test_a_server_in_trouble_still_gets_each_latent_once(
    trouble: str, make: Build, inputs: Inputs, small_batches: None
) -> None:
    uri = make(["neuronpedia"]).uri
    with neuronpedia(TROUBLES[trouble]) as (base, state):
        send(uri, base)
    assert state.troubled.total() - state.troubled["none"] >= 5
    assert_each_once(state, inputs)


def test_kills_at_any_moment_leave_each_latent_there_once(make: Build, inputs: Inputs, small_batches: None) -> None:
    uri = make(["neuronpedia"]).uri
    with neuronpedia(Troubles(longest_s=0.1)) as (base, state):
        found = told("tests.publish.forked_pushes", uri, base, 20, 1)
        assert found["kills"] == 20
        assert_each_once(state, inputs)
        assert state.asked["/api/features"] >= 5, "kills met calls at work"
        assert state.asked["/api/feature/upload-batch"] >= 30


def test_a_call_is_in_the_ledger_each_time_that_it_is_sent(make: Build) -> None:
    uri = make(["neuronpedia"]).uri
    with neuronpedia(Troubles(too_many=0.5, seed=1)) as (base, state):
        send(uri, base)
    lines = [json.loads(line) for line in Path(uri, LEDGER).read_text().splitlines()]
    sent = [line["call"] for line in lines if "sent" in line]
    assert len(sent) == state.asked["/api/source-set/new"] + state.asked["/api/feature/upload-batch"] > 2


def test_a_call_that_was_not_sent_whole_is_sent_again_without_the_features_that_are_there(
    make: Build, server: tuple[str, State], inputs: Inputs
) -> None:
    """As if a push by another program had brought some of a batch."""
    base, state = server
    uri = make(["neuronpedia"]).uri
    send(uri, base)
    for key in [key for key in state.features if key[2] % 3]:
        del state.features[key], state.activations[key]
    Path(uri, LEDGER).unlink()
    send(uri, base, resume=True)
    assert_each_once(state, inputs)


def test_a_set_that_is_there_is_only_gone_on_with_when_asked(make: Build, server: tuple[str, State]) -> None:
    base, state = server
    uri = make(["neuronpedia"]).uri
    send(uri, base)
    Path(uri, LEDGER).unlink()
    before = state.asked["/api/feature/upload-batch"]
    with pytest.raises(InputError, match="knows nothing of it; give --resume"):
        send(uri, base)
    assert state.asked["/api/feature/upload-batch"] == before


def test_a_set_that_another_folder_made_first_is_asked_what_it_has(
    make: Build, server: tuple[str, State], inputs: Inputs
) -> None:
    """This folder had read that there is none, and sent its own just after that one."""
    base, state = server
    uri = make(["neuronpedia"]).uri
    send(uri, base)
    first = Path(uri, LEDGER).read_text().splitlines()
    making = next(line for line in first if "source-set" in line and "sent" in line)
    Path(uri, LEDGER).write_text(f"{making}\n")
    send(uri, base)
    assert_each_once(state, inputs)


def test_after_a_lost_ledger_calls_may_still_be_at_work_so_there_is_one_wait(
    make: Build, server: tuple[str, State], monkeypatch: pytest.MonkeyPatch, small_batches: None
) -> None:
    base, _ = server
    uri = make(["neuronpedia"]).uri
    send(uri, base)
    Path(uri, LEDGER).unlink()
    waited: list[float] = []
    waits(monkeypatch, lambda seconds: (waited.append(seconds), time.sleep(seconds))[1])
    pushing.push(uri, f"neuronpedia:{base}", silent, resume=True, settle_s=2.0)
    assert 0 < sum(waited) <= 2


def test_a_set_of_another_sae_is_refused_even_with_resume(make: Build, server: tuple[str, State]) -> None:
    base, state = server
    uri = make(["neuronpedia"]).uri
    state.models["tiny-model"] = {"layers": 30}
    new_set(state, {"modelId": "tiny-model", "name": "tiny-saes", "description": "mine; sae 0123456789ab"})
    for resume in (False, True):
        with pytest.raises(InputError, match=r"of other SAEs than this one .* another --name"):
            send(uri, base, resume=resume)
    assert not state.features


def test_a_last_line_that_a_kill_cut_short_is_passed_over(make: Build, server: tuple[str, State], inputs: Inputs) -> None:
    base, state = server
    uri = make(["neuronpedia"]).uri
    send(uri, base)
    ledger = Path(uri, LEDGER)
    ledger.write_bytes(ledger.read_bytes()[:-7])
    send(uri, base)
    assert_each_once(state, inputs)
    assert all(json.loads(line) for line in ledger.read_text().splitlines())


def test_another_servers_ledger_is_not_this_ones(make: Build, server: tuple[str, State], inputs: Inputs) -> None:
    uri = make(["neuronpedia"]).uri
    send(uri, server[0])
    with neuronpedia() as (base, state):
        send(uri, base)
        assert_each_once(state, inputs)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", "put it into the variable NEURONPEDIA_API_KEY"), ("wrong-key-of-mine", "refuses the API key for .* \\(401: ")],
)
def test_a_key_that_is_missing_or_wrong_is_told_without_the_key(
    given: str, expected: str, make: Build, server: tuple[str, State], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = make(["neuronpedia"]).uri
    monkeypatch.setenv("NEURONPEDIA_API_KEY", given)
    with pytest.raises(InputError, match=expected) as refused:
        send(uri, server[0])
    assert not given or given not in str(refused.value)


def test_the_key_is_in_no_file_and_may_come_from_one(
    make: Build, server: tuple[str, State], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.delenv("NEURONPEDIA_API_KEY")
    monkeypatch.setenv("NEURONPEDIA_API_KEY_FILE", str(tmp_path / "key"))
    uri = make(["neuronpedia"]).uri
    send(uri, server[0])
    assert not [path for path in Path(uri).rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_key_never_goes_over_the_net_in_plain_text_nor_to_where_a_server_points() -> None:
    with pytest.raises(InputError, match="plain text"):
        client("http://example.org")
    with pytest.raises(InputError, match="is no address"):
        client("localhost:3000/x")


@pytest.mark.parametrize("where", ["http://[::1", "http://localhost:abc", "https://user:hunter2@example.org"])
def test_what_is_no_address_is_told_without_a_password(where: str) -> None:
    with pytest.raises(InputError, match="address") as refused:
        client(where)
    assert "hunter2" not in str(refused.value)


def test_a_key_for_this_machine_goes_to_no_proxy(server: tuple[str, State], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with neuronpedia() as (proxy, recorded):
        monkeypatch.setenv("http_proxy", proxy)
        assert client(server[0]).read("features", b"[]") == []
    assert not recorded.asked
    assert server[1].asked["/api/features"] == 1


def test_a_key_is_masked_before_what_a_server_says_is_cut() -> None:
    said = json.dumps({"error": "x" * 290 + KEY}).encode()
    error = urllib.error.HTTPError("", 400, KEY, Message(), io.BytesIO(said))
    assert KEY[:6] not in client("")._said(error)


def test_a_server_that_stays_away_is_told_and_the_command_goes_on_later(
    make: Build, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits(monkeypatch, lambda _: None)
    uri = make(["neuronpedia"]).uri
    with neuronpedia(Troubles(failed_before=1)) as (base, _), pytest.raises(SaemillError, match="gives no answer"):
        send(uri, base)


def test_two_pushes_of_a_folder_at_once_are_one_too_many(make: Build, server: tuple[str, State]) -> None:
    uri = make(["neuronpedia"]).uri
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a+b'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); "
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, f"{uri}/{LEDGER}"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="Another saemill publish --push"):
            send(uri, server[0])
        other.kill()


def test_the_command_prints_the_pages(make: Build, server: tuple[str, State], capsys: pytest.CaptureFixture[str]) -> None:
    base, _ = server
    uri = make(["neuronpedia"]).uri
    assert exit_code("publish", uri, "--push", f"neuronpedia:{base}", "--settle", "0.1") == 0
    assert capsys.readouterr().out.splitlines() == [f"{base} has 119 latents", f"{base}/{PLACE}"]


# What the tests above rest on.


def test_the_fake_server_keeps_activations_that_come_twice_twice_and_features_once() -> None:
    with neuronpedia() as (_, state):
        state.models["m"] = {"layers": 2}
        new_set(state, {"modelId": "m", "name": "s"})
        activation = {"tokens": ["a"], "values": [1.0], "quantileMin": 0, "quantileMax": 1, "quantileFraction": 1}
        feature = {"index": 1, "density": 0.5, "topLogits": [], "bottomLogits": [], "activations": [activation]}
        for density in (0.5, 0.25):
            upload(state, {"modelId": "m", "source": "1-s", "features": [{**feature, "density": density}]})
        assert state.features["m", "1-s", 1]["density"] == 0.5
        assert len(state.activations["m", "1-s", 1]) == 2
