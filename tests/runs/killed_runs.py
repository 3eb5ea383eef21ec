"""``igm fit`` in processes that are killed, forked from one that has imported everything."""

import os
import signal
import sys
from multiprocessing import get_context
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds
SMALL = [
    *("--trainer.max_steps=12", "--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    *("--data.batch_size=16", "--checkpoint.every_n_steps=4", "--ema.decay=0.5"),
    *("--samples.every_n_steps=5", "--samples.num_samples=4", "--samples.scale=1"),
    *("--metrics.every_n_steps=5", "--metrics.num_samples=80", "--metrics.kid_subset_size=40"),
    *("--metrics.kid_subsets=2", "--metrics.cache_dir=null"),
]
NETWORKS = [f"--model.{network}.init_args.width=4" for network in ("generator", "critic")]
CRITIC = [*NETWORKS, "--model.critic_steps=2"]
KID_RULE = [
    *("--trainer.callbacks=KIDLearningRate", "--trainer.callbacks.every_n_steps=2"),
    *("--trainer.callbacks.num_samples=40", "--trainer.callbacks.memory=2"),
    *("--trainer.callbacks.patience=1", "--trainer.callbacks+=CriticSpectrum"),
    "--trainer.callbacks.every_n_steps=4",
]
PRESETS = {
    "cramergan": CRITIC,
    "drifting": NETWORKS[:1],
    "feature_matching": [*NETWORKS[:1], "--model.moving_average=1e-3"],
    "gan": CRITIC,
    "gcmmdgan": CRITIC,
    "gramnet": NETWORKS,
    "mmdgan": CRITIC,
    "mmdgan/digits_li": [
        *CRITIC,
        "--model.decoder.init_args.width=4",
        "--model.critic_burst_steps=3",
    ],
    "mmdnet": NETWORKS[:1],
    "mmdnet/digits_codes": [
        "--model.pretraining.layer_steps=3",
        "--model.pretraining.joint_steps=2",
        "--model.autoencoder.init_args.hidden=[16]",
        "--model.generator.init_args.hidden=[8]",
    ],
    "molm": [*CRITIC, "--model.critic_interval=3"],
    "r3gan": CRITIC,
    "repulsive_mmdgan": CRITIC,
    "smmdgan": [*CRITIC, *KID_RULE],
    "sngan": CRITIC,
    "sobolevgan": CRITIC,
    "swgan": CRITIC,
    "wgangp": CRITIC,
}
_context = get_context("forkserver")
_context.set_forkserver_preload(["lightning_igm.cli", "sklearn.datasets"])


def arguments(preset, folder):
    path = ROOT / "configs" / (preset if "/" in preset else f"{preset}/digits")
    return ["fit", f"--config={path}.yaml", f"--run.dir={folder}", *SMALL, *PRESETS[preset]]


class Run:
    """A process that trains; what it prints goes to a file."""

    def __init__(self, words, log, die_before=0, die_in=None):
        self.log = Path(log)
        self._begun, theirs = _context.Pipe(duplex=False)
        self.process = _context.Process(
            target=_work, args=(words, str(log), theirs, die_before, die_in), daemon=True
        )
        self.process.start()
        theirs.close()

    def wait_for_training(self):
        self._begun.poll(PATIENCE)

    def kill(self, after=0.0):
        """Kill it after so many seconds; whether it was still alive."""
        self.process.join(after)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def end(self):
        """Wait for its end; the exit status."""
        self.process.join(PATIENCE)
        status = self.process.exitcode
        self.process.kill()
        return status

    def printed(self):
        return self.log.read_text()


def _work(words, log, begun, die_before, die_in):
    from lightning_igm.callbacks import ExactResume
    from lightning_igm.cli import console

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    start = ExactResume.on_train_start

    def on_train_start(*args):
        start(*args)
        begun.send_bytes(b"begun")

    ExactResume.on_train_start = on_train_start
    folder = next(word for word in words if word.startswith("--run.dir=")).split("=")[1]
    counted = _count_changes(folder, die_before)
    if die_in:
        _die_in(*die_in)
    sys.argv = ["igm", *words]
    console()
    print(f"\nchanges: {counted()}", flush=True)


def _die_in(kind, name, calls, by=signal.SIGKILL):
    """Have a signal at the end of one of the calls of a class's method."""
    method, count = getattr(kind, name), 0

    def dying(*args, **kwargs):
        nonlocal count
        result, count = method(*args, **kwargs), count + 1
        if count == calls:
            os.kill(os.getpid(), by)
        return result

    setattr(kind, name, dying)


def _count_changes(folder, die_before):
    """Count how often a file is opened for writing, moved or removed; die before one of them.

    What was not yet on the disk then is cut.
    """
    count, appended = 0, None

    def hook(event, args):
        nonlocal count, appended
        if event not in ("open", "os.rename", "os.remove"):
            return
        path = str(args[0])
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if not path.startswith(folder) or path.endswith(".lock"):
            return
        count += 1
        if count == die_before:
            for unfinished in Path(folder).rglob("*.part"):
                os.truncate(unfinished, os.path.getsize(unfinished) // 2)
            if appended:  # In the middle of its last row.
                os.truncate(appended, os.path.getsize(appended) - 5)
            os.kill(os.getpid(), signal.SIGKILL)
        appended = path if event == "open" and args[1] == "a" else None

    sys.addaudithook(hook)
    return lambda: count


def outcome(folder):
    """All that a run leaves behind, as far as it must not depend on kills."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    files.pop("checkpoints/previous.ckpt", None)
    return {
        name: torch.load(path, weights_only=True) if path.suffix == ".ckpt" else path.read_bytes()
        for name, path in files.items()
    }


def differences(first, second, where=""):
    """Names of what differs in two nested structures, to the bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return [] if same and first.numpy().tobytes() == second.numpy().tobytes() else [where]
    if isinstance(first, dict) and isinstance(second, dict):
        odd = [f"{where}/{key}" for key in first.keys() ^ second.keys()]
        both = [key for key in first if key in second]
        return odd + [d for k in both for d in differences(first[k], second[k], f"{where}/{k}")]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        odd = [] if len(first) == len(second) else [where]
        pairs = enumerate(zip(first, second, strict=False))
        return odd + [d for i, pair in pairs for d in differences(*pair, f"{where}/{i}")]
    return [] if repr(first) == repr(second) else [where]


def table(printed):
    """The table of scores at the end of a run; nothing of a run that was finished already."""
    lines = [line for line in printed.splitlines() if not line.startswith("igm: ")]
    heads = [number for number, line in enumerate(lines) if line.split()[:2] == ["step", "fid"]]
    return lines[heads[-1] : lines.index("", heads[-1])] if heads else []
