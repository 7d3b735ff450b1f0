import hashlib
import hmac
import json
import logging
from pathlib import Path

import pytest

from flows.config import parse_config
from flows.form import refuse_plain_secrets
from tasks.errors import InputError
from tasks.notify import webhook
from tasks.notify.config import NotifyConfig
from tasks.notify.webhook import post
from tests.conftest import free_port
from tests.nights.hook import Hook

EVENT = ("saemill.gate.verdict", "saemill: demo@3: HOLD", {"registry": "demo", "version": 3})


def told(hook: Hook, secret: str | None = None) -> bool:
    return post(NotifyConfig.model_validate({"webhook": hook.url, "secret": secret}), *EVENT)


def test_an_event_is_json_whose_text_slack_shows(hook: Hook) -> None:
    assert told(hook)
    ((headers, _),) = hook.requests
    (event,) = hook.events
    assert (event["event"], event["text"], event["registry"], event["version"]) == (*EVENT[:2], "demo", 3)
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Saemill-Delivery"] == event["delivery"]
    assert "X-Saemill-Signature" not in headers


@pytest.mark.parametrize("kind", ["itself", "file", "env"])
def test_the_body_is_signed_with_the_key(hook: Hook, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("s3cr3t\n")
    monkeypatch.setenv("HOOK_KEY", "s3cr3t")
    assert told(hook, {"itself": "s3cr3t", "file": f"file:{tmp_path}/key", "env": "env:HOOK_KEY"}[kind])
    ((headers, body),) = hook.requests
    expected = hmac.new(b"s3cr3t", body, hashlib.sha256).hexdigest()
    assert headers["X-Saemill-Signature"] == f"sha256={expected}"


def test_what_is_refused_for_a_while_is_tried_three_times_as_the_same_delivery(hook: Hook) -> None:
    hook.answers = [503, 429, 200]
    assert told(hook)
    assert len({event["delivery"] for event in hook.events}) == 1
    assert len(hook.requests) == 3
    hook.answers = [500, 502, 503]
    assert not told(hook)
    assert len(hook.requests) == 6


def test_what_is_refused_for_good_is_not_tried_again_and_no_redirect_is_followed(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    for code in (404, 302):
        hook.answers = [code]
        with caplog.at_level(logging.WARNING):
            assert not told(hook)
        assert f"the webhook at 127.0.0.1 was not told of saemill.gate.verdict: it answered {code}" in caplog.text
    assert len(hook.requests) == 2


def test_where_nobody_listens_a_warning_names_the_host_and_not_the_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(webhook, "WAITS_S", (0.0, 0.0))
    notify = NotifyConfig.model_validate({"webhook": f"http://127.0.0.1:{free_port()}/services/T0/token"})
    assert not post(notify, *EVENT)
    assert "ConnectError" in caplog.text
    assert "token" not in caplog.text


@pytest.mark.parametrize("secret", ["file:/no/such/key", "env:NO_SUCH_KEY"])
def test_without_its_key_nothing_is_sent_unsigned(hook: Hook, secret: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not told(hook, secret)
    assert hook.requests == []
    assert "notify.secret cannot be read" in caplog.text


def test_wrong_certificates_or_an_address_that_cannot_be_read_fail_nothing(
    hook: Hook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", "/no/such/file")
        assert not post(NotifyConfig.model_validate({"webhook": hook.url.replace("http:", "https:")}), *EVENT)
    assert not post(NotifyConfig.model_validate({"webhook": "file:/no/such/file"}), *EVENT)
    assert "cannot be read" in caplog.text
    monkeypatch.setenv("HOOK_URL", hook.url)
    assert post(NotifyConfig.model_validate({"webhook": "env:HOOK_URL"}), *EVENT)


@pytest.mark.parametrize("line", ["notify.secret=s3cr3t", "notify.webhook = https://hooks.example/T0/token"])
def test_a_secret_is_no_parameter_of_a_run(line: str) -> None:
    with pytest.raises(InputError, match="would be stored with the run"):
        refuse_plain_secrets(["sae.k=3", line])
    refuse_plain_secrets(["notify.secret=env:KEY", "notify.webhook='file:/run/secrets/hook'"])


def test_without_a_webhook_nobody_is_told() -> None:
    assert not post(NotifyConfig(), *EVENT)


def test_settings_show_neither_the_address_nor_the_key() -> None:
    given = {"text": {"source": "x.txt"}, "notify": {"webhook": "https://hooks.example/T0/xyzzy", "secret": "s3cr3t"}}
    config = parse_config(given)
    shown = json.dumps(config.model_dump(mode="json")) + repr(config)
    assert "xyzzy" not in shown
    assert "s3cr3t" not in shown


@pytest.mark.parametrize("address", ["hooks.example/T0", "ftp://hooks.example", "http://[", ""])
def test_what_is_no_address_of_the_web_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"notify\.webhook"):
        parse_config({"text": {"source": "x.txt"}, "notify": {"webhook": address}})
