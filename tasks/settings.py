"""The base of every stage's settings: frozen, documented under the field, and strict about names, kinds and bounds."""

import os
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from tasks.meant import NotMeantError, meant

MOST = 10**15
"""Bound of counts that nothing else bounds: tokens of a thousand of the largest corpora there are."""
MOST_SEED = 2**63 - 1
"""What torch, numpy and Python's random all take."""
MOST_PROCESSES = 65_536
LEAST_CPUS = 0.01
"""Ray deals CPUs in parts of 1/10,000; below a hundredth only mistakes lie."""

Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


def _expanded(path: str) -> str:
    """A path with ``~`` replaced by the home folder; nothing else is changed.

    Raises:
        ValueError: no file system could hold it, or nobody's home is meant.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"must not begin with {found.partition('/')[0]!r}, which is nobody's home folder")
    longest = max(len(part.encode()) for part in found.split("/"))
    if longest > 255:
        raise ValueError(f"must have at most 255 bytes between two '/', not {longest:,}")
    return found


PathText = Annotated[str, AfterValidator(_expanded)]
"""A path, glob or URI, or the name of something found elsewhere."""

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
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,  # pydantic's own text of an error, which Prefect stores, would quote secrets
        field_title_generator=lambda name, _: name,  # Prefect's form would say "D Sae" for what --set calls d_sae
    )
    not_in_recipe: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        try:
            return meant(value, annotation)
        except NotMeantError as error:
            context = {"told": str(error), "within": error.within, "found": error.found}
            raise PydanticCustomError("not_meant", "{told}", context) from None

    def recipe(self) -> dict[str, Any]:
        """The settings that change the result, as plain JSON values."""
        return self.model_dump(mode="json", exclude=set(self.not_in_recipe))
