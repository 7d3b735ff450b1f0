"""Copies of weights in bfloat16 are what the weights are, whoever has changed these."""

import pytest
import torch
from torch import Tensor

from tasks.sae.parameters import Layout, Parameters, view
from tasks.sae.weight_copies import WeightCopies

LAYOUT = Layout(5, 7, 6)


@pytest.fixture
def parameters() -> Parameters:
    return view(torch.randn(LAYOUT.size, generator=torch.Generator().manual_seed(0)), LAYOUT)


def both(copies: WeightCopies, parameters: Parameters) -> list[Tensor]:
    return [copies.encoder(parameters), copies.decoder(parameters)]


def are_copies(copies: WeightCopies, parameters: Parameters) -> bool:
    found = both(copies, parameters)
    return all(torch.equal(a, b.bfloat16()) for a, b in zip(found, (parameters.encoder, parameters.W_dec), strict=True))


def by_a_kernel(weights: Tensor) -> None:
    """Change weights as a kernel does, of which PyTorch knows nothing."""
    weights.numpy()[...] *= -3


def test_a_copy_follows_each_change_that_pytorch_knows_of(parameters: Parameters) -> None:
    copies = WeightCopies()
    assert are_copies(copies, parameters)
    first = both(copies, parameters)
    for change in (
        lambda: parameters.encoder[3].mul_(2),
        lambda: parameters.W_dec.div_(parameters.W_dec.norm(dim=1, keepdim=True)),
        lambda: parameters.flat.add_(1),
        lambda: parameters.flat.copy_(torch.ones(LAYOUT.size)),
    ):
        change()
        assert are_copies(copies, parameters)
    assert all(a is b for a, b in zip(first, both(copies, parameters), strict=True)), "in the same memory"


def test_a_copy_that_an_update_has_written_is_not_made_again(parameters: Parameters) -> None:
    copies = WeightCopies()
    assert copies.to_write == (None, None), "nobody has asked for one"
    copies.encoder(parameters)
    encoder, W_dec = copies.to_write
    assert encoder is not None
    assert W_dec is None
    by_a_kernel(parameters.encoder)
    encoder.fill_(7)  # this is what the update put there
    parameters.b_dec.zero_()  # lies in the same memory as the weights
    copies.written(parameters)
    assert (copies.encoder(parameters) == 7).all()
    parameters.b_enc.zero_()
    assert torch.equal(copies.encoder(parameters), parameters.encoder.bfloat16()), "this changed without an update"


def test_other_parameters_have_other_copies(parameters: Parameters) -> None:
    copies = WeightCopies()
    both(copies, parameters)
    assert are_copies(copies, view(parameters.flat * 2, LAYOUT))
    larger = Layout(5, 9, 6)
    assert are_copies(copies, view(torch.randn(larger.size), larger))
