import pytest
from pydantic import ValidationError

from tasks.harvest.config import HarvestConfig
from tasks.lm.names import canonical, nearest
from tasks.train.config import TrainConfig


def test_a_hook_has_one_name():
    assert [canonical(hook) for hook in ("a.b", "a.b:output", "a.b:input")] == ["a.b", "a.b", "a.b:input"]
    assert HarvestConfig(hooks=["a:output", "b", "a:input"]).hooks == ["a", "b", "a:input"]
    assert TrainConfig(hook="a:output").hook == "a"


@pytest.mark.parametrize("hooks", [["a", "a"], ["a", "a:output"], ["b", "a:input", "a:input"]])
def test_a_hook_under_two_names_is_refused_rather_than_stored_twice(hooks):
    with pytest.raises(ValidationError, match="must name each hook once: a"):
        HarvestConfig(hooks=hooks)


@pytest.mark.parametrize("hook", ["", ":input", "a:", "a:middle", "a:b:input"])
def test_a_hook_of_another_form_is_refused_in_the_settings(hook):
    with pytest.raises(ValidationError, match="not of the form"):
        HarvestConfig(hooks=[hook])


def test_the_nearest_names_are_asked_for_and_none_where_nothing_is_near():
    assert nearest("layer.1.mpl", ["layer.1.mlp", "norm"]) == " Did you mean layer.1.mlp?"
    assert nearest("zzz", ["layer.1.mlp", "norm"]) == ""
