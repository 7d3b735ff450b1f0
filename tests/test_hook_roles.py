"""Which hooks an SAE reads and rebuilds, by what its config.json says and which hooks there are."""

from typing import Any

import pytest

from tasks.errors import InputError
from tasks.hook_roles import ENTRY, HookRoles, require_known, roles_among, roles_in_scores

ONE = HookRoles.of_sae("early")
TRANSCODER = HookRoles(("early",), ("late",))
CROSSCODER = HookRoles.of_sae("early", "late")


def among(settings: dict[str, Any], *there: str) -> HookRoles:
    return roles_among(there, settings, "/r/saes/a", "/r/activations/b")


@pytest.mark.parametrize("roles, kind", [(ONE, "sae"), (TRANSCODER, "transcoder"), (CROSSCODER, "crosscoder")])
def test_what_training_keeps_is_what_is_read_again(roles: HookRoles, kind: str) -> None:
    assert roles.kind == kind
    assert among({ENTRY: roles.to_json()}, "late", "early", "other") == roles


def test_hooks_lie_in_a_row_in_the_order_of_what_is_read_and_then_what_is_only_rebuilt() -> None:
    assert HookRoles(("b", "a"), ("c",)).all == ("b", "a", "c")
    assert CROSSCODER.all == ("early", "late")
    assert TRANSCODER.first == "early"


@pytest.mark.parametrize(
    "settings, roles",
    [
        ({"hook": "early"}, ONE),
        ({"hook": "early", "target_hook": "late"}, TRANSCODER),
        ({"hook": "early", "hooks": ["early", "late"]}, CROSSCODER),
        ({"hook": "early", ENTRY: {"inputs": "early"}}, ONE),
    ],
)
def test_an_sae_of_before_is_one_of_the_hooks_that_it_names(settings: dict[str, Any], roles: HookRoles) -> None:
    assert among(settings, "early", "late") == roles


@pytest.mark.parametrize("settings", [{}, {"hook": "blocks.3.hook_resid_post"}, {"hook": 3}])
def test_an_sae_that_knows_its_hook_by_another_name_is_one_of_the_only_hook(settings: dict[str, Any]) -> None:
    assert among(settings, "model.layers.3") == HookRoles.of_sae("model.layers.3")
    with pytest.raises(InputError, match=r"/r/saes/a .* and /r/activations/b has a, b\. Say which .* --hook"):
        among(settings, "a", "b")


def test_a_transcoder_that_knows_its_hooks_by_other_names_is_not_guessed_at() -> None:
    with pytest.raises(InputError, match=r"is of in to out, and .* with --target-hook"):
        among({"hook": "in", "target_hook": "out"}, "model.layers.3")


def test_an_sae_that_states_its_hook_is_not_taken_for_one_of_another() -> None:
    with pytest.raises(InputError, match=r"is of early, and /r/activations/b has late\."):
        among({ENTRY: ONE.to_json()}, "late")


def test_hooks_that_are_given_must_be_there() -> None:
    assert require_known(ONE, ["early", "late"], "/r/activations/b") is ONE
    with pytest.raises(InputError, match=r"/r/activations/b has no hook 'late'; it has early\."):
        require_known(TRANSCODER, ["early"], "/r/activations/b")


def test_scores_say_with_which_roles_they_were_made() -> None:
    assert roles_in_scores({"hook": "early"}) == ONE
    assert roles_in_scores({"input_hooks": ["early"], "output_hooks": ["late"]}) == TRANSCODER
    assert roles_in_scores({"fvu": 0.1}) is None
