"""Workers of one machine meet through a file that only their user can read.

By default they meet through a TCPStore, which listens on every interface and believes whoever connects.
"""

import uuid
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend


@dataclass
class OneMachineTorchConfig(TorchConfig):  # type: ignore[misc] # Ray is not typed
    """For a local cluster: gloo and NCCL themselves are told to use loopback when it is started."""

    @property
    def backend_cls(self) -> type:
        """What Ray Train calls when its workers are there."""
        return _OneMachineBackend


class _OneMachineBackend(_TorchBackend):  # type: ignore[misc] # Ray is not typed
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """As Ray's own (2.60, ray/train/torch/config.py), but for the place where they meet: a new file each time."""
        session = ray._private.worker._global_node.get_session_dir_path()
        # Not Path.as_uri: PyTorch takes %20 for three letters of the name.
        place = f"file://{session}/torch-{uuid.uuid4().hex}"
        worker_group.execute(_set_torch_distributed_env_vars)
        meeting = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=place,
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(meeting)
