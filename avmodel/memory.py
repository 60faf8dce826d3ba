"""An estimate of the memory that a pretraining takes on each card, without running it.

What lies on a card at the end of a forward pass: weights, gradients and moments, and the tensors that autograd keeps
for the backward pass. These are counted on a model without memory (torch's FakeTensorMode), with the shapes and types
of one micro-step. Not counted: temporary results of single operations, the CUDA context, workspaces of libraries and
what the allocator cannot use.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from avmodel.checkpoint import NoRandomValues
from avmodel.compiling import blocks_of
from avmodel.configs.run import RESIDUAL, RunConfig
from avmodel.costs import SEED, draw_batch
from avmodel.distributed import World
from avmodel.models import build_model
from avmodel.models.family import Family
from avmodel.precision import autocast, matmul_dtype
from avmodel.rng import draw_masks

CPU = torch.device("cpu")
FLOAT_BYTES = 4


class Memory(NamedTuple):
    """Bytes on one card."""

    weights: int
    gradients: int
    moments: int
    average: int  # of the weights, with ema_decay
    gathered: int  # with parallel=fsdp: whole blocks, beside the shares
    activations: int  # of one micro-step

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


def estimate_memory(config: RunConfig, processes: int = 1) -> Memory:
    """Memory of each of so many processes with a card each, without temporary results.

    Blocks count as not compiled: compiled ones keep less. Raises ConfigError for a batch that doesn't divide among the
    processes.
    """
    size, _ = config.micro_batch(processes)
    without_memory = FakeTensorMode(allow_non_fake_inputs=True)
    with without_memory, NoRandomValues():
        model = build_model(config.model)
    trained = FLOAT_BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = bytes_of(model.state_dict().values())
    gathered, shares, buckets = 0, 1, 1
    if processes > 1 and config.parallel == "fsdp":
        shares = processes
        units = [bytes_of(block.parameters()) for block in blocks_of(model)]
        outside = bytes_of(model.parameters()) - sum(units)
        # Weights and gradients of what is outside of the blocks, of the block at work; the next block's weights.
        gathered = 2 * outside + 3 * max(units, default=0)
    elif processes > 1:
        buckets = 2  # in which DistributedDataParallel averages, beside the gradients
    return Memory(
        weights=-(-kept // shares),
        gradients=-(-buckets * trained // shares),
        moments=-(-2 * len(model.step_terms) * trained // shares),
        average=-(-kept // shares) if config.ema_decay is not None else 0,
        gathered=gathered,
        activations=activation_bytes(model, config, size, processes, without_memory),
    )


def memory_note(config: RunConfig, processes: int = 1) -> str:
    """The estimate in words."""
    found = estimate_memory(config, processes)
    parts = {
        "weights": found.weights,
        "gradients": found.gradients,
        "optimizer": found.moments,
        "average of the weights": found.average,
        "gathered blocks": found.gathered,
        f"activations of {config.micro_batch(processes)[0]} samples": found.activations,
    }
    shown = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items() if size)
    cards = "the card" if processes == 1 else f"each of {processes} cards"
    return (
        f"memory of {cards}, by an estimate: {gigabytes(found.total)} GB ({shown}). Temporary results, the CUDA "
        "context and fragmentation come on top; compiled blocks take less."
    )


def gigabytes(size: int) -> str:
    """10^9 bytes, to two decimals."""
    return f"{size / 1e9:.2f}"


def bytes_of(tensors: Any) -> int:
    """Bytes of these tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Saved:
    """The storages that a forward pass keeps for its backward pass: in blocks, call by call, and outside of them."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {id_of(p) for p in [*model.parameters(), *model.buffers()]}
        self._held: list[Tensor] = []  # so that no storage's id is used again
        self._open: list[int] = []
        self.outside = 0
        self.calls: list[int] = []  # bytes of each call of a block
        self.inputs = 0  # of the blocks
        self._inputs: set[int] = set()
        for block in blocks_of(model):
            block.register_forward_pre_hook(self._enter)
            block.register_forward_hook(self._leave)

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd keeps."""
        place = id_of(tensor)
        if place not in self._known:
            self._known.add(place)
            self._held.append(tensor)
            size = tensor.untyped_storage().nbytes()
            if self._open:
                self._open[-1] += size
            else:
                self.outside += size
        return tensor

    def _enter(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._open.append(0)
        for tensor in inputs:
            if isinstance(tensor, Tensor) and id_of(tensor) not in self._inputs:
                self._inputs.add(id_of(tensor))
                self._held.append(tensor)
                self.inputs += tensor.untyped_storage().nbytes()

    def _leave(self, *_: Any) -> None:
        self.calls.append(self._open.pop())


def id_of(tensor: Tensor) -> int:
    """A number that only the tensors of one storage have."""
    place: int = tensor.untyped_storage()._cdata
    return place


def activation_bytes(
    model: Family, config: RunConfig, size: int, processes: int, without_memory: FakeTensorMode
) -> int:
    """Bytes that autograd keeps of one micro-step of `size` samples, by a model that was built in that mode."""
    world = World(0, processes, CPU)
    masks = draw_masks(model, SEED, draw_batch(config.model, size), world)
    saved = Saved(model)
    with without_memory, saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        image = torch.empty(size, 3, *config.model.image_size)
        log_mel = torch.empty(size, 1, *config.model.audio_size)
        # Tokens between blocks are smaller with bfloat16-residual; its weights' copies are those of autocast.
        with autocast("bfloat16" if config.precision == RESIDUAL else config.precision, CPU):
            model(image, log_mel, masks)
    if not config.checkpoint_activations:
        return saved.outside + sum(saved.calls)
    # At the end of the forward pass autocast still has its copies of the weights; later one block is computed again.
    half = matmul_dtype(config.precision) != torch.float32
    copies = sum(bytes_of(block.parameters()) for block in blocks_of(model)) // 2 if half else 0
    return saved.outside + saved.inputs + max(copies, *saved.calls)
