"""Two calculations small enough to check on paper, our code beside numbers written out by hand.

Rows are samples, as in the rest of the code: a layer is ``x W + b``.
"""

import pytest
import torch
from torch import Tensor

from tasks.sae.architectures.base import StepBatch
from tasks.sae.architectures.registry import architecture
from tasks.sae.config import SAEConfig
from tasks.sae.losses import squared_error, weighted_l1
from tasks.sae.mesh import OneProcess
from tasks.sae.parameters import Layout, Parameters, zeros
from tasks.sae.scaling import Scaling


class TestDenseAutoencoder:
    """4-3-2-3-4: linear, ReLU, linear, ReLU, linear, ReLU, linear. The loss is squared error, its gradient 2(Y' - Y)."""

    X = torch.tensor([[1.0, 2.0, 0.0, 1.0]])
    W1 = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, -1.0]])
    W2 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    W3 = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]])
    W4 = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0]])

    def forward(self, *weights: Tensor) -> list[Tensor]:
        steps = [self.X]
        for i, weight in enumerate(weights):
            pre_acts = steps[-1] @ weight
            steps += [pre_acts] if i == len(weights) - 1 else [pre_acts, pre_acts.relu()]
        return steps

    def test_forward(self):
        """By hand: W1 -> [1 + 1, 2, -1 - 1] = [2, 2, -2], ReLU [2, 2, 0]; then [2, 2]; [2, 2, 0]; [2, 2, 0, 2]."""
        _, h1, a1, h2, a2, h3, a3, y = self.forward(self.W1, self.W2, self.W3, self.W4)
        assert h1.tolist() == [[2, 2, -2]]
        assert a1.tolist() == [[2, 2, 0]]
        assert h2.tolist() == a2.tolist() == [[2, 2]]
        assert h3.tolist() == a3.tolist() == [[2, 2, 0]]
        assert y.tolist() == [[2, 2, 0, 2]]
        assert float(squared_error(self.X, y)) == 2  # (2 - 1)^2 + 0 + 0 + (2 - 1)^2

    def test_backward(self):
        """By hand, with G = 2(Y' - Y) = [2, 0, 0, 2].

        dW4 = a3^T G = [2, 2, 0]^T [2, 0, 0, 2]; back through W4: [2, 0 + 2, 0]; ReLU passes where h3 > 0: [2, 2, 0];
        dW3 = [2, 2]^T [2, 2, 0]; back: [2, 2]; dW2 = [2, 2, 0]^T [2, 2]; back: [2, 2, 4]; ReLU stops the last: [2, 2, 0];
        dW1 = X^T [2, 2, 0].
        """
        weights = [w.clone().requires_grad_() for w in (self.W1, self.W2, self.W3, self.W4)]
        *_, y = self.forward(*weights)
        y.retain_grad()
        squared_error(self.X, y).backward()
        assert y.grad is not None
        assert y.grad.tolist() == [[2, 0, 0, 2]]
        assert [w.grad.tolist() for w in weights if w.grad is not None] == [
            [[2, 2, 0], [4, 4, 0], [0, 0, 0], [2, 2, 0]],
            [[4, 4], [4, 4], [0, 0]],
            [[4, 4, 0], [4, 4, 0]],
            [[4, 0, 0, 4], [4, 0, 0, 4], [0, 0, 0, 0]],
        ]


class TestSparseAutoencoder:
    """3-6-3: linear, ReLU, decode; L1 on codes weighted by decoder row norms, coefficient 1/2."""

    X = torch.tensor([[1.0, 2.0, 3.0]])
    ENCODER = torch.tensor(  # a row per latent; pre-activations of X: 1, 2, 3, -1, 3, -6
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, -3.0, 0.0]]
    )
    W_DEC = torch.tensor(  # norms by hand: 1, 2, 5 (a 3-4-5 triangle), 1, 3 (1 + 4 + 4), 2
        [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 3.0, 4.0], [0.0, 0.0, 1.0], [1.0, 2.0, 2.0], [2.0, 0.0, 0.0]]
    )
    B_DEC = torch.tensor([1.0, 0.0, -1.0])
    COEFFICIENT = 0.5
    PLAIN = Scaling(torch.zeros(3), torch.ones(3))

    @pytest.fixture
    def parameters(self) -> Parameters:
        parameters = zeros(Layout(3, 6, 3))
        parameters.encoder.copy_(self.ENCODER)
        parameters.W_dec.copy_(self.W_DEC)
        parameters.b_dec.copy_(self.B_DEC)
        return parameters

    def test_forward(self, parameters):
        """By hand: x_hat = 1 [1,0,0] + 2 [0,2,0] + 3 [0,3,4] + 3 [1,2,2] + [1,0,-1] = [5, 19, 17]."""
        codes = (self.X @ parameters.encoder.T + parameters.b_enc).relu()
        assert codes.tolist() == [[1, 2, 3, 0, 3, 0]]
        x_hat = codes @ parameters.W_dec + parameters.b_dec
        assert x_hat.tolist() == [[5, 19, 17]]
        assert float(squared_error(self.X, x_hat)) == 4**2 + 17**2 + 14**2  # 501
        assert float(weighted_l1(codes, parameters.W_dec)) == 1 * 1 + 2 * 2 + 3 * 5 + 3 * 3  # 29

    def test_l1_gradient_is_the_row_norm_on_active_latents_and_zero_on_silent_ones(self, parameters):
        """d/dz of ReLU(z) ||W_dec|| is sign(code) ||W_dec||: 1, 2, 5, 3 on the active, 0 on the silent (not 1, not 2)."""
        pre_acts = (self.X @ self.ENCODER.T).requires_grad_()
        weighted_l1(pre_acts.relu(), parameters.W_dec).backward()
        assert pre_acts.grad is not None
        assert pre_acts.grad.tolist() == [[1, 2, 5, 0, 3, 0]]

    def test_the_training_steps_gradients(self, parameters):
        """By hand, with G = 2 (x_hat - x) = 2 [4, 17, 14] = [8, 34, 28].

        d/dcodes = W_dec G + norms / 2 on active latents:
          1: 8 + .5 = 8.5; 2: 68 + 1 = 69; 3: 102 + 112 + 2.5 = 216.5; 5: 8 + 68 + 56 + 1.5 = 133.5; 4 and 6 silent: 0.
        d/db_enc is the same, d/dencoder that times X, d/db_dec = G.
        d/dW_dec = code G + (1/2) code W_dec / norm: for latent 1 [8, 34, 28] + [.5, 0, 0], for latent 3
          3 [8, 34, 28] + 1.5 [0, .6, .8] = [24, 102.9, 85.2], and 0 for the silent.
        """
        out = zeros(Layout(3, 6, 3))
        config = SAEConfig(arch="l1", d_sae=6, l1_coefficient=self.COEFFICIENT)
        batch = StepBatch(
            raw=self.X,
            scaling=self.PLAIN,
            dead=torch.zeros(6, dtype=torch.bool),
            bf16=False,
            buffers=architecture("l1").buffers(config),
        )
        sums, _ = architecture("l1").gradients(config, parameters, out, batch, OneProcess())
        assert float(sums.loss) == 501 + 0.5 * 29
        assert out.b_dec.tolist() == [8, 34, 28]
        assert out.b_enc.tolist() == [8.5, 69, 216.5, 0, 133.5, 0]
        assert out.encoder[1].tolist() == [69, 138, 207]
        assert out.encoder[3].tolist() == out.encoder[5].tolist() == [0, 0, 0]
        assert out.W_dec[0].tolist() == [8.5, 34, 28]
        assert out.W_dec[2].tolist() == pytest.approx([24, 102.9, 85.2])
        assert out.W_dec[3].tolist() == out.W_dec[5].tolist() == [0, 0, 0]

    def test_without_the_penalty_it_is_the_dense_baseline(self, parameters):
        out = zeros(Layout(3, 6, 3))
        batch = StepBatch(raw=self.X, scaling=self.PLAIN, dead=torch.zeros(6, dtype=torch.bool), bf16=False)
        sums, _ = architecture("dense").gradients(SAEConfig(arch="dense", d_sae=6), parameters, out, batch, OneProcess())
        assert float(sums.loss) == 501
        assert out.b_enc.tolist() == [8, 68, 214, 0, 132, 0]
