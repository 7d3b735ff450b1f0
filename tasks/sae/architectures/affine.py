"""What a step at active latents does beside the latents: the encoder's product, the decoder's bias and the skip path."""

import torch
from torch import Tensor

from tasks.sae.architectures.base import StepBatch
from tasks.sae.kernels.dispatch import backend_for
from tasks.sae.kernels.types import DecodedRows
from tasks.sae.parameters import Parameters

_ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""oneDNN's product, where torch has it. ``addmm`` calls MKL's for float32, which on AMD's CPUs is slower: medians of 125 ms
against 82 for 2048 x 576 x 9216, of 865 against 528 for 4096 x 768 x 24576 (2 threads of an EPYC)."""


def pre_activations(parameters: Parameters, x: Tensor, batch: StepBatch) -> Tensor:
    """The encoder's product ``[n, d_sae]`` with scaled rows, in bfloat16 if the batch says so."""
    encoder, b_enc = parameters.encoder, parameters.b_enc
    if batch.bf16:  # 15 ms against 62; the copy of the weights costs 0.4
        copies = batch.scratch.copies if backend_for(encoder).copies_weights else None
        encoder = encoder.bfloat16() if copies is None else copies.encoder(parameters)
        x, b_enc = x.bfloat16(), b_enc.bfloat16()
    elif x.dtype == torch.float32 and x.device.type == "cpu" and _ONEDNN_LINEAR is not None:
        product: Tensor = _ONEDNN_LINEAR(x, encoder, b_enc, "none", [], "")
        return product
    out = batch.scratch.empty("pre_acts", (len(x), len(encoder)), like=x)
    return torch.addmm(b_enc, x, encoder.T, out=out)


def rest_to_rebuild(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """What the latents have to rebuild: the target without the decoder's bias and the skip path."""
    target = y - parameters.b_dec
    if "W_skip" in parameters.extra:
        target.addmm_(x, parameters.extra["W_skip"].T, alpha=-1)
    return target


def write_rest(out: Parameters, rows: DecodedRows, x: Tensor) -> None:
    """Gradients of the decoder's bias and the skip path; the first group's gradient is that of all prefixes together."""
    gradient = rows.output_gradient[: len(x)]
    out.b_dec.copy_(gradient.sum(0))
    if "W_skip" in out.extra:
        torch.mm(gradient.T, x, out=out.extra["W_skip"])
