"""Pages from the templates beside this file, and what they load."""

from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, **values: Any) -> bytes:
    """A page of these values, all of which the template has to be given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values).encode()


def asset(name: str) -> bytes:
    """A style sheet, script or picture."""
    return (_TEMPLATES / name).read_bytes()
