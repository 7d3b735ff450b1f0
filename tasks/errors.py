"""The errors that saemill raises on purpose.

    SaemillError
    ├── InputError      the user's settings, files or machine are not fit for the run (exit code 2)
    └── ArtifactError   a stage's directory is damaged or is not what its manifest says (exit code 2)

Each message is one sentence or two: where, what was found, what was expected, what to do.
"""

from tasks.secret import masked


class SaemillError(Exception):
    """Base of all errors raised on purpose; its text is fit to be shown to a user as it is, without secrets in addresses."""

    def __init__(self, *given: object) -> None:
        super().__init__(*(masked(part) if isinstance(part, str) else part for part in given))


class InputError(SaemillError):
    """The user's input is wrong: correct the setting or file that the message names."""


class ArtifactError(SaemillError):
    """A stored artifact is damaged, incomplete or of another recipe; the message says which."""
