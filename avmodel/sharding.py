"""Models whose weights, gradients and optimizer states are divided among the processes of a run (torch's FSDP2).

Each transformer block is a unit: its weights are gathered for its forward and its backward pass and freed after each;
its gradients are averaged and divided as they come. Files hold whole tensors, as those of any other run: a share is
gathered before it is written and cut out after it was read.

FSDP2 is imported where it is used: without `parallel=fsdp` nobody waits for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from avmodel.compiling import blocks_of
from avmodel.distributed import World
from avmodel.models.family import Family

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# They compute with the weights of a family, or of a block, as a call does.
FORWARD_METHODS = ("encode", "streams", "forward_intermediates", "attention")
BLOCK_METHODS = ("cls_attention", "context_attention")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a model lies on the processes: whole on each (no mesh), or divided among all."""

    world: World
    mesh: "DeviceMesh | None"

    @property
    def start(self) -> torch.device:
        """Where a whole model is built or loaded: a divided one may not fit on one device."""
        return self.world.device if self.mesh is None else torch.device("cpu")

    def __call__(self, model: Family) -> Family:
        """Put a whole model there. Waits for no other process."""
        return model.to(self.world.device) if self.mesh is None else shard(model, self.mesh)


def placement(parallel: str, world: World) -> Placement:
    """As the setting `parallel` says; one process alone has the whole model. All processes call it together."""
    if parallel != "fsdp" or world.size == 1:
        return Placement(world, None)
    return Placement(
        world, import_module("torch.distributed.device_mesh").init_device_mesh(world.device.type, (world.size,))
    )


def shard(model: Family, mesh: "DeviceMesh") -> Family:
    """Divide a model's parameters, block by block, and move them to the mesh's devices; buffers stay whole."""
    fsdp = import_module("torch.distributed.fsdp")
    for block in blocks_of(model):
        fsdp.fully_shard(block, mesh=mesh, reshard_after_forward=True)
        for method in BLOCK_METHODS:
            if hasattr(block, method):
                fsdp.register_fsdp_forward_method(block, method)
    # After a pass without gradients, too, the model's parameters are the shares that the optimizers know.
    fsdp.fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for method in FORWARD_METHODS:
        fsdp.register_fsdp_forward_method(model, method)
    return model


def is_share(tensor: Tensor) -> bool:
    """Whether this process has a share of the tensor only (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: its share, or all of it."""
    return tensor.to_local() if is_share(tensor) else tensor  # type: ignore[attr-defined]  # of a DTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's parameters are divided among the processes."""
    return any(is_share(parameter) for parameter in module.parameters())


def whole(value: Any, *, keep: bool) -> Any:
    """The value with whole tensors on the CPU in place of shares, in nested dicts, lists and tuples.

    Every process calls it for values of the same structure. One that does not `keep` gets None in place of a tensor.
    """
    if isinstance(value, Mapping):
        return {key: whole(item, keep=keep) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(whole(item, keep=keep) for item in value)
    if isinstance(value, Tensor) and is_share(value):
        gathered = value.full_tensor()  # type: ignore[attr-defined]  # of a DTensor
        return gathered.cpu() if keep else None
    return value


def whole_weights(model: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """A model's state dict with whole tensors, on the processes that `keep` it; {} on others of a sharded model.

    Every process calls it; process 0 alone may keep the weights of a sharded model.
    """
    if not is_sharded(model):
        return model.state_dict() if keep else {}
    checkpoint = import_module("torch.distributed.checkpoint.state_dict")
    options = checkpoint.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Tensor] = checkpoint.get_model_state_dict(model, options=options)
    return weights


def load_whole(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model these whole weights, of which each process takes its share. Every process calls it."""
    if not is_sharded(model):
        model.load_state_dict(dict(weights))
        return
    checkpoint = import_module("torch.distributed.checkpoint.state_dict")
    checkpoint.set_model_state_dict(model, dict(weights), options=checkpoint.StateDictOptions(full_state_dict=True))


def share_of(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's share of a whole tensor of the parameter's shape; any other tensor as it is. Waits for nobody."""
    if not is_share(parameter) or value.shape != parameter.shape:
        return value
    place: Any = parameter
    share: Tensor = import_module("torch.distributed.tensor").distribute_tensor(
        value.to(parameter.device), place.device_mesh, place.placements, src_data_rank=None
    )
    return share


def gradient_norm(module: nn.Module) -> Float[Tensor, ""]:
    """The norm of all gradients together, those of all shares. Every process of a sharded module calls it."""
    norm = get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    return norm.full_tensor() if is_share(norm) else norm  # type: ignore[attr-defined]
