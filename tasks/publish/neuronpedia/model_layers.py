"""How many layers a model has, which Neuronpedia asks of whoever brings a model that it does not know."""

from tasks.errors import InputError
from tasks.lm.config import ModelConfig
from tasks.publish.neuronpedia.places import MOST_LAYERS
from tasks.storage.artifacts import read_json
from tasks.storage.paths import shown


def model_layers(sae: str) -> int:
    """As the configuration of an SAE's model says, where that is at hand: installed, in a folder, or on the hub.

    Raises:
        InputError: it is not at hand, or has more layers than Neuronpedia takes.
    """
    from tasks.lm.configuration import read_configuration  # only here: transformers takes seconds
    from tasks.lm.files import resolve

    stated = read_json(sae, "config.json") or {}
    name, revision = stated.get("model"), stated.get("revision")
    try:
        layers = int(
            read_configuration(resolve(ModelConfig(name=name, revision=revision))).get_text_config().num_hidden_layers
        )
    except Exception as error:  # whatever transformers raises
        raise InputError(
            f"Neuronpedia asks how many layers the model has, and {shown(str(name))} cannot be looked at here: say it with "
            "--layers."
        ) from error
    if not 1 <= layers <= MOST_LAYERS:
        raise InputError(f"The model has {layers} layers, and Neuronpedia keeps models of 1 to {MOST_LAYERS}.")
    return layers
