"""What the registry writes: small JSON objects, each signed, created once and never changed."""

from datetime import UTC, datetime
from typing import TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from tasks.errors import ArtifactError
from tasks.storage.artifacts import read_json, to_json
from tasks.storage.base import ObjectStore


class Signed(BaseModel):
    """Who did something, and when."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    by: str
    """Such as user@host."""
    when: AwareDatetime

    @classmethod
    def now(cls, by: str) -> "Signed":
        """Somebody, at this moment."""
        return cls(by=by, when=datetime.now(UTC))

    def to_bytes(self) -> bytes:
        """As it is stored."""
        return to_json(self.model_dump(mode="json"))


Record = TypeVar("Record", bound=Signed)


def stored(kind: type[Record], store: ObjectStore, key: str) -> Record | None:
    """A record of this kind; None where there is none.

    Raises:
        ArtifactError: what is there is no such record.
    """
    found = read_json(store.uri, key)
    if found is None:
        return None
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ArtifactError(
            f"{store.uri}/{key} is damaged: {where} is not what the registry writes ({first['msg']}). Restore it from a "
            "copy of the storage."
        ) from None
