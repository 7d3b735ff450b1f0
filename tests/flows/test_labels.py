"""What runs are called and tagged by where they are listed."""

from flows.config import parse_config
from flows.labels import run_tags, sweep_tags

SWEPT = {
    "name": "mine",
    "text": {"source": "x"},
    "model": {"name": "gpt2"},
    "harvest": {"hooks": ["transformer.h.6"]},
    "sae": {"arch": "topk"},
    "sweep": {"archs": ["batchtopk", "gated"]},
}


def test_a_sweep_is_tagged_with_the_architectures_that_it_trains() -> None:
    config = parse_config(SWEPT)
    assert sweep_tags(config) == ["mine", "gpt2", "h.6", "batchtopk", "gated"]
    assert run_tags(config) == ["mine", "gpt2", "h.6", "topk"], "a run of the same settings trains this one"


def test_a_sweep_that_names_none_is_tagged_with_its_settings_own() -> None:
    config = parse_config(SWEPT | {"sweep": {"seeds": [0, 1]}})
    assert sweep_tags(config) == ["mine", "gpt2", "h.6", "topk"]
