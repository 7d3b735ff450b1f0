"""Whom a run tells what became of it."""

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from tasks.settings import Settings

ELSEWHERE = ("env:", "file:")
"""How a secret begins that says where it lies."""


class NotifyConfig(Settings):
    """A webhook that is called after each night, and when a night fails; for those who watch no server."""

    not_in_recipe: ClassVar[frozenset[str]] = frozenset({"webhook", "secret"})

    webhook: SecretStr | None = Field(None, max_length=4096)
    """http(s):// URL to which events are posted as JSON, with a field text that Slack shows; env:NAME or file:PATH say where
    it is. It is masked wherever settings are shown, as whoever knows it may post there."""
    secret: SecretStr | None = Field(None, max_length=4096)
    """Key of the HMAC-SHA256 in the header X-Saemill-Signature: env:NAME or file:PATH say where it is; anything else is the
    key itself, and is masked. Empty: nothing is signed."""

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        given = "" if value is None else value.get_secret_value()
        if value is not None and not given.startswith(("http://", "https://", *ELSEWHERE)):
            raise ValueError("must begin with http:// or https://, or be env:NAME or file:PATH")
        try:
            urlsplit(given)
        except ValueError as error:
            raise ValueError(f"must be an address of the web ({error})") from None
        return value
