"""What is wrong with an engine, told apart from what is wrong with a model."""

from tasks.errors import InputError


class EngineError(InputError):
    """The engine that the settings name is not there, cannot run the model, or gives other activations than transformers.

    No other start of it would go better, so a harvest ends with it.
    """
