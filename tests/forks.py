"""Processes that start without imports: they are forked from a server that has torch and avkit loaded."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "avcli.evaluate_output",
        "avcli.pretrain",
        "avcli.pretrain_output",
        "avdata.torch_melspec",
        "avmodel.evaluate.finetune.task",
        "avmodel.evaluate.linear_probe.task",
        "avmodel.evaluate.run",
        "avmodel.evaluate.segmentation.task",
        "avmodel.evaluate.separation.task",
        "avmodel.train",
        "matplotlib.figure",
        "tests.runs",
        "torch.distributed.checkpoint.state_dict",
        "torch.distributed.fsdp",
        "torch._dynamo",  # which the first optimizer imports: three seconds
        "torch.utils.tensorboard",
    ]
)


def launch(
    function: Callable[..., None], *arguments: Any, log: Path, env: Mapping[str, str] | None = None
) -> ForkServerProcess:
    """Start a process that calls the function on one thread. Its output goes to `log`."""
    process = CONTEXT.Process(target=_child, args=(function, arguments, dict(env or {}), log))
    process.start()
    return process


def call(function: Callable[..., None], *arguments: Any, log: Path, env: Mapping[str, str] | None = None) -> int:
    """The exit code of such a process; negative: the signal."""
    return finish(launch(function, *arguments, log=log, env=env), log)


def finish(process: ForkServerProcess, log: Path | None = None, timeout_s: float = 300) -> int:
    """The exit code, once the process has ended."""
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        said = log.read_text()[-2000:] if log is not None and log.exists() else "nothing"
        raise AssertionError(f"a process did not end in {timeout_s:g} s. It said: {said}")
    return process.exitcode


def call_together(
    function: Callable[..., None], *arguments: Any, log: Path, size: int = 2, env: Mapping[str, str] | None = None
) -> list[int]:
    """The exit codes of `size` processes with torchrun's environment variables; each log's name ends in its rank.

    As with torchrun, this process serves the store where they meet: no other process can take its port in between, and
    the store outlives rank 0.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(size),
        **(env or {}),
    }
    processes = [
        launch(
            function,
            *arguments,
            log=log.with_suffix(f".{rank}"),
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    codes = [finish(process, log.with_suffix(f".{rank}")) for rank, process in enumerate(processes)]
    del store
    return codes


def avkit(*words: object) -> None:
    """The command, in such a process."""
    from avcli.main import run

    sys.argv = ["avkit", *map(str, words)]
    run()


def _child(function: Callable[..., None], arguments: tuple[Any, ...], env: dict[str, str], log: Path) -> None:
    import torch

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(env)
    torch.set_num_threads(1)
    function(*arguments)
