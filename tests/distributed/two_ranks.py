"""Processes that stay up for all distributed tests, joined by gloo on the CPU; two of them."""

import functools
import os
import pickle
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

PATIENCE = 300  # seconds; a busy machine takes minutes to import everything


@functools.cache
def started(folder, count=2):
    """The ranks, started on the first call; they end with the process."""
    return Ranks(folder, count)


class Ranks:
    """Runs module-level functions on every rank at once."""

    def __init__(self, folder, count):
        context = multiprocessing.get_context("spawn")
        self.processes, self.connections = [], []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(rank, count, folder, theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)

    def run(self, function, *args):
        """The results ``[of rank 0, of rank 1, ...]``."""
        answers = []
        for rank, connection in enumerate(self.begin(function, *args)):
            if not connection.poll(PATIENCE):
                self.stop()
                raise TimeoutError(f"rank {rank} does not answer")
            answers.append(pickle.loads(connection.recv_bytes()))
        # All of them: one that waits in vain for another is not the cause.
        raised = [
            f"rank {rank} raised:\n{value}"
            for rank, (good, value) in enumerate(answers)
            if not good
        ]
        assert not raised, "\n".join(raised)
        return [value for _, value in answers]

    def begin(self, function, *args):
        """Call the function on all ranks; gives the connections that will bring the results."""
        for connection in self.connections:
            connection.send_bytes(pickle.dumps((function, args)))
        return self.connections

    def stop(self):
        for process in self.processes:
            process.terminate()
            process.join()


def serve(rank, count, folder, connection):
    # What torchrun would set, so that Lightning starts no processes of its own.
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ["NODE_RANK"] = "0"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{Path(folder) / f'rendezvous-{count}'}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=PATIENCE / 2),
    )
    while True:
        try:
            function, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            answer = True, function(*args)
        except Exception:
            answer = False, traceback.format_exc()
        connection.send_bytes(pickle.dumps(answer))
