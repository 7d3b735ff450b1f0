"""Other libraries' training of TopK SAEs, by their own classes; runs in each library's own environment.

As a script it is a child of ``__main__.py``; ``quality/real/peer.py`` trains whole SAEs with the same trainers. What each
library makes of a batch between two data loader calls is here, without its logging and checkpoints.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from protocol import Step, Task, serve
from torch import Tensor

Coder = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
"""Dense codes of raw rows, and raw reconstructions of codes."""


@dataclass(frozen=True)
class Settings:
    """An SAE and its run."""

    d_in: int
    d_sae: int
    k: int
    batch: int
    n_steps: int
    bf16: bool
    device: str = "cpu"
    arch: str = "topk"
    lr: float | None = 1e-3
    """Peak learning rate, with a linear warm-up over 5% and a linear decay over the last 20%; None: the library's default,
    with its own schedule and optimizer."""
    dead_window: int | None = None
    """Steps after which a latent counts as dead; None: the library's default."""

    @property
    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 where it is asked for."""
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def share_of_lr(self, step: int) -> float:
        """The schedule: share of the peak at a step."""
        return min(1.0, (step + 1) / (0.05 * self.n_steps), max(0.0, self.n_steps - step) / (0.2 * self.n_steps))


@dataclass(frozen=True)
class Trainer:
    """One library's SAE in training."""

    step: Step
    coder: Callable[[], Coder]
    """The finished SAE, as the library uses it after training."""


def sparsify(settings: Settings, first: Tensor) -> Trainer:
    """What sparsify's ``Trainer.fit`` does with the activations of one hook, in its order; AuxK off, as by default."""
    if settings.device == "cpu":
        os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(0)
    config = SparseCoderConfig(num_latents=settings.d_sae, k=settings.k)
    sae = SparseCoder(settings.d_in, config, settings.device, torch.float32)
    sae.b_dec.data = first.float().mean(0)
    optimizer, schedule = _sparsify_optimizer(sae, settings)
    silent = torch.zeros(sae.num_latents, dtype=torch.long, device=settings.device)
    fired = torch.zeros(sae.num_latents, dtype=torch.bool, device=settings.device)

    def step(x: Tensor) -> None:
        sae.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        with settings.autocast:
            out = sae(x=x, y=x, dead_mask=None, total_variance=variance)
        fired[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + out.multi_topk_fvu / 8).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        schedule()
        silent.add_(len(x))
        silent[fired] = 0
        fired.zero_()

    def encode(x: Tensor) -> Tensor:
        values, indices, pre_acts = sae.encode(x)
        return torch.zeros_like(pre_acts).scatter(1, indices, values)

    def coder() -> Coder:
        if hasattr(optimizer, "eval"):  # the averaged weights of a schedule-free optimizer
            optimizer.eval()
        sae.set_decoder_norm_to_unit_norm()
        return encode, lambda codes: codes @ sae.W_dec + sae.b_dec

    return Trainer(step, coder)


def _sparsify_optimizer(sae: torch.nn.Module, settings: Settings) -> tuple[Any, Callable[[], object]]:
    """Adam with a schedule, or what the library takes where nothing is said: sign descent without a schedule."""
    if settings.lr is None:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        lr = 5e-3 / (settings.d_sae / 2**14) ** 0.5
        optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=lr), momentum=0.95)
        optimizer.train()
        return optimizer, lambda: None
    adam = torch.optim.Adam(sae.parameters(), lr=settings.lr)
    return adam, torch.optim.lr_scheduler.LambdaLR(adam, settings.share_of_lr).step


def saelens(settings: Settings, first: Tensor) -> Trainer:
    """SAELens' ``SAETrainer.step``, on dense codes.

    Its sparse ones have no backward pass where codes are scaled by the decoder's norms, as they are by default (torch 2.13:
    "Could not run 'aten::view' with arguments from the 'SparseCPU' backend").
    """
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    default, normalised = settings.lr is None, "none" if settings.lr is None else "expected_average_only_in"
    sizes = {"d_in": settings.d_in, "d_sae": settings.d_sae, "k": settings.k, "device": settings.device}
    sizes |= {"normalize_activations": normalised}
    if settings.arch == "topk":
        sae: Any = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes))
    else:
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**sizes))
    lr = 3e-4 if settings.lr is None else settings.lr
    config = SAETrainerConfig(
        total_training_samples=settings.n_steps * settings.batch,
        train_batch_size_samples=settings.batch,
        lr=lr,
        lr_end=lr / 10,  # required, and not used by a constant schedule
        lr_warm_up_steps=0 if default else round(0.05 * settings.n_steps),
        lr_decay_steps=0 if default else round(0.2 * settings.n_steps),
        device=settings.device,
        autocast=settings.bf16,
        **({} if settings.dead_window is None else {"dead_feature_window": settings.dead_window}),
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))
    if not default:
        trainer.activation_scaler.estimate_scaling_factor(settings.d_in, iter([first]), n_batches_for_norm_estimate=1)

    def step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return Trainer(step, lambda: _saelens_coder(trainer))


def _saelens_coder(trainer: Any) -> Coder:
    """The SAE as SAELens saves it for inference: norms and scale folded, BatchTopK with its threshold."""
    import tempfile

    from sae_lens import SAE

    if trainer.activation_scaler.scaling_factor is not None:
        trainer.sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    with tempfile.TemporaryDirectory() as folder:
        trainer.sae.save_inference_model(folder)
        sae = SAE.load_from_disk(folder)
    return sae.encode, sae.decode


def dictionary_learning(settings: Settings, first: Tensor) -> Trainer:
    """dictionary_learning's ``TopKTrainer.update``, within autocast as its ``trainSAE`` has it on GPUs."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=settings.n_steps,
        activation_dim=settings.d_in,
        dict_size=settings.d_sae,
        k=settings.k,
        layer=0,
        lm_name="",
        lr=settings.lr,
        warmup_steps=round(0.05 * settings.n_steps),
        decay_start=round(0.8 * settings.n_steps),
        seed=0,
        device=settings.device,
    )
    done = 0

    def step(x: Tensor) -> None:
        nonlocal done
        with settings.autocast:
            trainer.update(done, x)
        done += 1

    return Trainer(step, lambda: (trainer.ae.encode, trainer.ae.decode))


LIBRARIES = {"sparsify": sparsify, "saelens": saelens, "dictionary_learning": dictionary_learning}
SMALL = {"d_in": 64, "d_sae": 256, "k": 8, "batch": 64}


def make(task: Task, first: Tensor) -> Mapping[str, Callable[[], Step]]:
    """The one step that a peer's child can be asked for; one of a small SAE has loaded what the library needs."""
    library, same = LIBRARIES[task.library], {"bf16": task.bf16, "device": task.device, "n_steps": 100_000}
    small = first[: SMALL["batch"], : SMALL["d_in"]].contiguous()
    library(Settings(**SMALL, **same), small).step(small)
    sizes = {name: getattr(task, name) for name in SMALL}
    return {"step": lambda: library(Settings(**sizes, **same), first).step}


if __name__ == "__main__":
    serve(make)
