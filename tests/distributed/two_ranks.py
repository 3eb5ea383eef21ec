"""Processes that stay up for all distributed tests, joined by gloo on the CPU; two of them."""

import faulthandler
import functools
import os
import pickle
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing

PATIENCE = 300  # seconds; a busy machine takes minutes to import everything


@functools.cache
def started(count):
    """As many ranks, started on the first call; they end with the process."""
    return Ranks(count)


class Ranks:
    """Runs module-level functions on every rank at once."""

    def __init__(self, count):
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()  # Of its own: a rendezvous is for once.
        self.processes, self.connections = [], []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, count, Path(self.folder.name), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)

    def run(self, function, *args):
        """The results ``[of rank 0, of rank 1, ...]``."""
        answers = []
        for rank, connection in enumerate(self.begin(function, *args)):
            if not connection.poll(PATIENCE):
                stacks = [path.read_text() for path in Path(self.folder.name).glob("stacks-*")]
                self.stop()
                raise TimeoutError(f"rank {rank} does not answer\n" + "\n".join(stacks))
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
        self.folder.cleanup()


def serve(rank, count, folder, connection):
    # What torchrun would set, so that Lightning starts no processes of its own.
    os.environ["LOCAL_RANK"] = str(rank)
    os.environ["NODE_RANK"] = "0"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=PATIENCE / 2),
    )
    with open(folder / f"stacks-{rank}", "w") as stacks:
        answer_calls(connection, stacks)


def answer_calls(connection, stacks):
    while True:
        try:
            function, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        faulthandler.dump_traceback_later(PATIENCE / 3, file=stacks)  # Where it hangs, if it does.
        os.environ.pop("PL_GLOBAL_SEED", None)  # Of another test: Lightning seeds all ranks by it.
        try:
            answer = True, function(*args)
        except Exception:
            answer = False, traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        connection.send_bytes(pickle.dumps(answer))
