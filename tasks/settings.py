"""The base of every stage's settings: frozen, documented under the field, and strict about names."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

HookName = Annotated[str, AfterValidator(lambda name: name.removesuffix(":output"))]
"""A hook by its one name: 'x:output' is 'x'."""


class Settings(BaseModel):
    """Settings of one stage.

    Unknown keys and wrong types are refused by name. ``not_in_recipe`` names the fields that stay out of the
    address: those that change how fast a result comes but not what it is, and paths of files whose content is
    hashed in their place.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        field_title_generator=lambda name, _: name,  # Prefect's form would say "D Sae" for what --set calls d_sae
    )
    not_in_recipe: ClassVar[frozenset[str]] = frozenset()

    def recipe(self) -> dict[str, Any]:
        """The settings that change the result, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(self.not_in_recipe))
