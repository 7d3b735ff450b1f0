"""Whether an SAE is one that training may begin from, told by its settings and without torch."""

from typing import Any

from tasks.errors import InputError
from tasks.hook_roles import stated_roles
from tasks.sae.content import FILES
from tasks.storage.artifacts import read_json
from tasks.storage.paths import shown
from tasks.train.run_settings import RunSettings


def require_same_sizes(config: RunSettings, d_in: int) -> None:
    """Refuse an SAE (``train.init_from``) of another architecture, width or hook than the one that is to be trained.

    An imported one, whose hooks have another library's names, has to be of the same widths.

    Raises:
        InputError: it is another, or there is none.
        ArtifactError: its settings are damaged.
    """
    uri = config.train.init_from
    assert uri is not None
    found = read_json(uri, FILES[1])
    if found is None:
        raise InputError(
            f"train.init_from is {shown(uri)}, where there is no SAE: a directory with {' and '.join(FILES)} was expected, "
            "as saemill train or saemill import prints it."
        )
    wanted: dict[str, Any] = {"arch": config.sae.arch, "d_sae": config.sae.d_sae, "d_in": d_in, "skip": config.sae.skip}
    there = {"skip": False} | found
    for name, value in wanted.items():
        if there.get(name) != value:
            raise InputError(
                f"train.init_from is an SAE whose sae.{name} is {there.get(name)}, but here it is {value}: an SAE begins "
                f"only from one of its own kind. Set sae.{name} to it, name another SAE, or leave train.init_from empty."
            )
    roles = stated_roles(found)
    if roles is not None and roles != config.hooks:
        raise InputError(
            f"train.init_from is an SAE of {roles}, but here it is one of {config.hooks}: an SAE begins only from one of "
            "the same hooks. Name another SAE, other hooks, or leave train.init_from empty."
        )
