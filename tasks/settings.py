"""The base of every stage's settings: frozen, documented under the field, and strict about names."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Settings of one stage.

    Unknown keys and wrong types are refused by name. ``speed`` names the fields that change how fast a
    result comes but not what it is; they stay out of the recipe and so out of the address.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )
    speed: ClassVar[frozenset[str]] = frozenset()

    def recipe(self) -> dict[str, Any]:
        """The settings that change the result, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(self.speed))
