"""No batch waits for the device: only logs, the bar and the check of losses do, now and then.

The runs are on torch's meta device, whose tensors have shapes and no values: nothing can be read
from them, and the code takes the ways that it takes on a GPU. Whatever waits on a GPU is told by
its operator and by the line of ours that calls it.
"""

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from methods import concrete_methods, presets_on_digits, settings_of
from tiny_models import NoiseImages, fit, tiny, tiny_critic
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_igm.callbacks import ExactResume, GeneratorEMA, GeneratorProgressBar
from lightning_igm.cli import main
from lightning_igm.losses.adversarial import logistic_critic_loss
from lightning_igm.modules import GAN, GRAMNet, ImplicitGenerativeModule
from lightning_igm.modules.finite import FiniteLosses

ROOT = Path(__file__).parents[2]
OURS = tuple(str(ROOT / package) for package in ("lightning_igm", "datamodules"))
META = torch.device("meta")
# Their results are on the host, or it must know how large they are, or looks for errors.
READING = {
    *("_linalg_check_errors", "_linalg_eigh", "_linalg_svd", "linalg_eig", "linalg_lstsq"),
    *("_local_scalar_dense", "allclose", "equal", "multinomial", "histc", "bincount"),
    *("masked_select", "nonzero", "nonzero_numpy", "repeat_interleave", "unique_consecutive"),
    *("_unique", "_unique2", "unique_dim", "unique_dim_consecutive"),
}
# Now and then, by functions of these names.
ALLOWED = {"check_finite", "log_now", "get_metrics"}


class HostWaits(AssertionError):
    """The host waits for the device."""


class Watch(TorchDispatchMode):
    """Stops where the host would wait for the device, except in functions that may; counts them."""

    def __init__(self, allowed=()):
        super().__init__()
        self.allowed = set(allowed)
        self.waited = Counter()
        self.lists = Lists(self)

    def __enter__(self):
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.lists.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if waits(name, args, kwargs):
            self.note(name)
            if name == "_local_scalar_dense":  # What the losses' check takes for a good sign.
                return torch.iinfo(torch.int64).max
        return function(*args, **kwargs)

    def note(self, name):
        line, functions = our_line()
        if not self.allowed & functions:
            raise HostWaits(f"{name} at {line}")
        self.waited.update(self.allowed & functions)


class Lists(TorchFunctionMode):
    """Sees lists on their way to the device: most releases of torch copy them out of Watch's sight.

    Args:
        watch: What is told.
    """

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor):
            copied = made.device == META and not isinstance(args[0], torch.Tensor)
        else:
            at = function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
            indices = args[1] if at and isinstance(args[1], tuple) else args[1:2]
            on_device = at and args[0].device == META
            copied = on_device and any(isinstance(index, list) for index in indices)
        if copied:
            self.watch.note("list")
        return made


def waits(name, args, kwargs):
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if not any(tensor.device == META for tensor in tensors):
        # From memory that is not pinned a copy to the device waits, too.
        return name == "_to_copy" and kwargs["device"] == META and not kwargs.get("non_blocking")
    if name in ("_to_copy", "copy_"):
        devices = {kwargs.get("device", META), *(tensor.device for tensor in tensors)}
        return len(devices) > 1 and not kwargs.get("non_blocking")
    if name.startswith(("index", "_index_put")):
        indices = [tensor for tensor in tree_leaves(args[1]) if isinstance(tensor, torch.Tensor)]
        return any(i.dtype in (torch.bool, torch.uint8) or i.device != META for i in indices)
    return name in READING or name == "lift_fresh"  # A tensor of numbers that Python had.


def our_line():
    """The innermost line of ours that is running, and the functions around it."""
    line, functions, frame = None, set(), sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(OURS):
            line = line or f"{path.removeprefix(f'{ROOT}/')}:{frame.f_lineno}"
            functions.add(frame.f_code.co_name)
        frame = frame.f_back
    return line or "no line of ours", functions


class Accelerator(CPUAccelerator):
    def setup_device(self, device):
        pass


class NoValues(SingleDeviceStrategy):
    """Trains on the meta device; nothing comes back from there."""

    def __init__(self):
        super().__init__(device=META, accelerator=Accelerator())

    def reduce(self, tensor, *args, **kwargs):
        return 1  # Lightning asks how long the data are.

    def teardown(self):
        trainer = self.lightning_module.trainer
        trainer.fit_loop.epoch_loop._results.clear()
        trainer._logger_connector.reset_metrics()


class Generator(torch.Generator):
    """Of the meta device, which has none and does not draw."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.stated = torch.device(device)
        return generator

    @property
    def device(self):
        return self.stated


@pytest.fixture
def meta(monkeypatch):
    def autocast(device, **settings):
        return nullcontext() if device == "meta" else usual(device, **settings)

    usual = torch.autocast
    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(ImplicitGenerativeModule, "on_train_end", lambda model: None)
    monkeypatch.setattr(FiniteLosses, "on_train_end", lambda *of_the_run: None)


def train(model, watch, *callbacks, data=None, **settings):
    """Train, with all that belongs to a batch under watch."""

    class Watching(ExactResume):
        def on_fit_start(self, trainer, pl_module):
            advance = trainer.fit_loop.epoch_loop.advance

            def watched(fetcher):
                with watch:
                    advance(fetcher)

            trainer.fit_loop.epoch_loop.advance = watched

    callbacks = [Watching(), GeneratorEMA(0.5), *callbacks]
    return fit(model, *callbacks, data=data, **({"log_every_n_steps": 0} | settings))


def on_meta():
    return {"strategy": NoValues(), "accelerator": "auto"}


# --- every method -----------------------------------------------------------------------------

FEW = ["--model.critic_steps=1"]

PHASES = [*FEW, "--model.critic_interval=1", "--data.batch_size=500"]
SETTINGS = {
    "drifting": [
        [],
        ["--model.field=SinkhornField", "--model.field.iterations=3"],
        ["--model.field=MMDField", "--model.temperatures=[0.5]"],
        ["--model.features=DigitFeatures", "--model.features.weights=mnist"],
    ],
    "feature_matching": [[], ["--model.moving_average=1e-3"]],
    "gan": [[*FEW, "--model.gradient_clip=0.1", "--model.latent_distribution=uniform"]],
    "gcmmdgan": [FEW, [*FEW, "--model.rank=3"]],
    "gramnet": [
        [],
        ["--model.sigmas=median5", "--model.update=sequential", "--model.regulariser=clip"],
    ],
    "mmdgan/digits_li": [["--model.critic_burst_steps=2", "--model.same_batch=true"]],
    "mmdnet": [[]],
    "mmdnet/digits_codes": [
        ["--model.pretraining.layer_steps=1", "--model.pretraining.joint_steps=2"]
    ],
    "molm": [
        [*PHASES, "--model.estimator=one_batch", "--model.hidden_weight=1"],
        [*PHASES, "--model.estimator=two_batch", "--model.pixel_weight=1"],
        [*PHASES, "--model.estimator=u_statistic", "--model.generator.init_args.batch_norm=false"],
    ],
    "r3gan": [[*FEW, "--model.fresh_reals=true"]],
    "smmdgan": [
        [*FEW, "--model.mu=interp", "--model.scaling=value_and_grad"],
        [*FEW, "--model.mu=mix", "--model.scaling=paper"],
    ],
}
PRESETS = {name.removesuffix("/digits"): path for name, path in presets_on_digits().items()}
CASES = [
    pytest.param(name, words, id=f"{name} {number}")
    for name, path in PRESETS.items()
    for number, words in enumerate(
        SETTINGS.get(name, [FEW if "critic_steps" in settings_of(path) else []])
    )
]


def made(preset, words):
    path = ROOT / "configs" / (preset if "/" in preset else f"{preset}/digits")
    cli = main([f"--config={path}.yaml", "--run.dir=none", *words], run=False)
    return cli.model, cli.datamodule


@pytest.mark.parametrize(("preset", "words"), CASES)
def test_no_batch_waits_for_the_device(meta, preset, words):
    model, data = made(preset, words)
    trainer = train(model, Watch(), data=data, max_steps=2, **on_meta())
    assert trainer.global_step == 2
    assert all(value.device == META for value in model.latest.values())


def test_all_exported_methods_are_among_them():
    kinds = {settings_of(path)["class_path"] for path in PRESETS.values()}
    assert kinds == concrete_methods().keys()


class Errors:
    """torch's own watch, on a GPU."""

    def __enter__(self):
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *exception):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("preset", "words"), CASES)
def test_no_batch_waits_for_a_gpu(preset, words):
    model, data = made(preset, words)
    assert train(model, Errors(), data=data, max_steps=2, accelerator="gpu").global_step == 2


# --- what may wait, and what would ------------------------------------------------------------


def test_logs_the_bar_and_the_check_wait_at_their_cadence(meta):
    watch, bar = Watch(ALLOWED), GeneratorProgressBar(refresh_rate=10)
    bar.on_train_epoch_end = lambda *args: None  # Not of a batch, and not under watch.
    settings = {"enable_progress_bar": True, "log_every_n_steps": 20}
    data = NoiseImages(count=500)
    train(tiny(GAN), watch, bar, data=data, max_steps=101, **settings, **on_meta())
    # Two losses each: at batches 51 and 101; at steps 20, 40 ...; at batches 0, 10, ... and last.
    assert watch.waited == {"check_finite": 4, "log_now": 10, "get_metrics": 22}


def test_diagnostics_of_the_ratio_wait_when_they_are_logged(meta):
    model = tiny(GRAMNet, critic=tiny_critic(out_dim=3))
    with pytest.raises(HostWaits, match=r"_linalg_eigh at lightning_igm/losses/ratio.py:\d+"):
        train(model, Watch(ALLOWED), max_steps=2, log_every_n_steps=2, **on_meta())


E = torch.eye(3, device=META)
WAITS = {
    "bool": lambda: bool(E.sum() > 0),
    "copy of a list": lambda: torch.tensor([1.0], device=META),
    "copy to the device": lambda: torch.ones(3).to(META),
    "copy to the host": lambda: E.cpu(),
    "in place": lambda: E.copy_(torch.ones(3, 3)),
    "index on the host": lambda: E[torch.tensor([0])],
    "item": lambda: E.sum().item(),
    "list": lambda: E.tolist(),
    "list as index": lambda: E[[0, 1]],
    "list that is set": lambda: E.__setitem__([0, 1], 0.0),
    "mask": lambda: E[E > 0],
    "mask that is set": lambda: E.__setitem__(E > 0, E[0]),
    "repeats": lambda: E.repeat_interleave(E[0].long(), 0),
    "size": lambda: E.nonzero(),
    "solve": lambda: torch.linalg.solve(E, E),
    "unique": lambda: E.unique(),
}


@pytest.mark.parametrize("code", WAITS.values(), ids=WAITS)
def test_the_watch_sees(code):
    with pytest.raises(HostWaits), Watch():
        code()


def test_the_watch_tells_the_line(meta):
    class Curious(GAN):
        def critic_loss(self, real, fake):
            return logistic_critic_loss(real.mean(), self.log_now({"mean": fake.mean()}))

    with pytest.raises(
        HostWaits, match=r"_local_scalar_dense at lightning_igm/modules/logged_values.py:"
    ):
        train(tiny(Curious), Watch(), **on_meta())


def test_the_watch_lets_pass():
    with Watch():
        torch.ones(3).to(META, non_blocking=True)
        torch.ones(3).sum().item()
        torch.full((), 2.0, device=META).where(E > 0, 1.0)
        E[E.argmax(0)], torch.linalg.solve_ex(E, E), torch.linalg.cholesky_ex(E)


def test_the_bar_shows_scores_and_losses():
    bar = GeneratorProgressBar()
    trainer = fit(tiny(GAN), bar, max_steps=2, enable_progress_bar=True)
    shown = bar.get_metrics(trainer, trainer.lightning_module)
    assert shown == {name: float(value) for name, value in trainer.lightning_module.latest.items()}
    assert set(shown) == {"critic_loss", "generator_loss"}
