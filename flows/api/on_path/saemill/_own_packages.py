"""Our packages ``tasks`` and ``flows`` are found by where they lie, before Python asks the folders of ``sys.path``.

Both names are common: Celery and Invoke want a ``tasks.py``. Python asks the working folder, or that of the user's script,
before it asks the folder where saemill is installed, so such a file would be taken for our package.

Python looks for a submodule only in the ``__path__`` of the package that ``sys.modules`` has. So it is enough that our two
packages are there. They are put there when saemill is imported. That takes a millisecond, as both are nearly empty.

Python knows one module by a name. A module of the user's that is called so cannot be imported beside ours, and an import of
it must not get ours without a word. Whoever comes second is told: by an error of ``import saemill``, or by an error that
names the file which is hidden. Two other ways were weighed. To load ours under other names would load them twice, since
Ray's workers and the command line know them by these names. To merge ours and the user's would let ``tasks.train`` be
either.
"""

import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

_HERE = os.path.dirname(os.path.realpath(__file__))


def _root() -> str:
    """The folder in which our packages lie: beside this one in a wheel, else the repository's own."""
    beside, repository = os.path.dirname(_HERE), os.path.abspath(os.path.join(_HERE, *[os.pardir] * 4))
    return beside if os.path.isfile(os.path.join(beside, "flows", "api", "__init__.py")) else repository


def claim(*names: str) -> None:
    """Have these names mean our packages from now on.

    Raises:
        ImportError: this process has imported something else by one of the names.
    """
    for name in names:
        there = sys.modules.get(name)
        if there is None:
            _load(name)
        elif _places(there) != [_folder(name)]:
            raise ImportError(_refusal(name, there), name=name)
        _explain(sys.modules[name])
    if not any(isinstance(finder, _Explainer) for finder in sys.meta_path):
        sys.meta_path.append(_Explainer(names))


def _load(name: str) -> None:
    spec = importlib.util.spec_from_file_location(name, os.path.join(_folder(name), "__init__.py"))
    assert spec is not None  # it has a loader, by the file's ending
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _folder(name: str) -> str:
    return os.path.join(_root(), name)


def _places(module: ModuleType) -> list[str]:
    """Where a package looks for its modules; a module that is none looks nowhere."""
    return [os.path.realpath(place) for place in getattr(module, "__path__", [])]


def _refusal(name: str, there: ModuleType) -> str:
    where = getattr(there, "__file__", None) or ", ".join(_places(there))
    return (
        f"saemill has a package called {name!r} of its own, but this process has imported another module of that name, from "
        f"{where}. Python knows only one module by a name: rename yours, or import saemill in another process."
    )


def _explain(package: ModuleType) -> None:
    """Have the package say so where it is asked for what a hidden module of the user's has."""
    name = package.__name__

    def missing(attribute: str) -> NoReturn:
        found = _hidden(name)
        beside = "" if found is None or attribute.startswith("__") else f": {_told(name, found)}"
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}{beside}")

    package.__dict__.setdefault("__getattr__", missing)


class _Explainer:
    """Asked last for a module: of ours where there is none, it names the user's that is hidden by ours."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> None:
        """Find nothing.

        Raises:
            ImportError: a module of the user's is hidden, which may have been meant.
        """
        package, dot, _ = name.partition(".")
        found = _hidden(package) if dot and package in self._names else None
        if found is not None:
            # Not its subclass ModuleNotFoundError, which `from tasks import name` would pass over.
            raise ImportError(f"There is no module {name!r}: {_told(package, found)}", name=name)


def _hidden(name: str) -> str | None:
    """Where Python would have found a module of the user's that is called like our package; None where there is none."""
    for folder in sys.path:
        spec: ModuleSpec | None = importlib.machinery.PathFinder.find_spec(name, [folder])
        if spec is not None:
            places = [os.path.realpath(place) for place in spec.submodule_search_locations or []]
            return None if _folder(name) in places else spec.origin or places[0]
    return None


def _told(name: str, hidden: str) -> str:
    return (
        f"saemill, which this process has imported, has a package {name!r} of its own, and it hides {hidden}. Python knows "
        "only one module by a name: rename yours, or import it in another process than saemill."
    )
