"""Ensembles trained by several processes, one thread each."""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import torch

from lightning_igm.studies.ring.cells import Cell, train

__all__ = ["one_thread", "train_all"]


def train_all(todo: Sequence[list[Cell]], folder: Path, processes: int) -> Iterator[list[Cell]]:
    """Train ensembles, several at a time and one thread each; yield each when it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    if processes == 1:
        with one_thread():
            for group in todo:
                train(group, folder)
                yield group
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_worker) as pool:
        jobs = {pool.submit(train, group, folder): group for group in todo}
        try:
            for job in as_completed(jobs):
                job.result()
                yield jobs[job]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would train on, and wait for work for ever."""
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Use one thread in the body."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # Averages of dead units' gradients sink to numbers that take many times as long.
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
