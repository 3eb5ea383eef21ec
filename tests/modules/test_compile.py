"""Compiled networks train to the same weights; checkpoints, averages and exports do not know."""

import shutil

import pytest
import torch
from small_presets import PRESETS, ROOT, two_steps
from tiny_models import fit, tiny, tiny_generator
from torch._dynamo.utils import counters

from lightning_igm.callbacks import GeneratorEMA
from lightning_igm.cli import main
from lightning_igm.modules import GAN, MMDGAN, SNGAN, WGANGP, MMDNet, MoLM
from lightning_igm.runs.export import export

# torch looks at it to compile what is given the generator's images, and means to be silent.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

# It differentiates as inductor does, and writes no code.
FAST = "aot_eager"


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()


def trained(path, compiler, precision="64-true"):
    """Weights after two steps, of networks of small widths."""
    weights = two_steps(path, f"--model.compile={compiler}", precision=precision).state_dict()
    # At least the generator's passes for either player, and the one that tries the backend.
    assert (counters["stats"]["unique_graphs"] > 1) == (compiler != "false")
    counters.clear()
    return weights


def assert_same(first, second):
    double = next(iter(first.values())).dtype == torch.float64
    close = {"rtol": 1e-7, "atol": 1e-9} if double else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(first, second, **close)


@pytest.mark.filterwarnings("ignore:The ratio has died")  # So small a network is no use.
@pytest.mark.parametrize("path", PRESETS)
def test_every_method_trains_to_the_same_weights(path):
    assert_same(trained(path, FAST), trained(path, "false"))


def test_a_compiled_critic_is_measured(tmp_path):
    path = ROOT / "configs" / "gan" / "digits.yaml"
    words = [f"--config={path}", f"--model.compile={FAST}", f"--run.dir={tmp_path / 'run'}"]
    words += ["--model.critic.init_args.width=4", "--metrics.every_n_steps=null"]
    words += ["--trainer.callbacks=CriticSpectrum", "--trainer.callbacks.every_n_steps=1"]
    main(["fit", *words, "--trainer.max_steps=1", "--trainer.accelerator=cpu"])
    assert "critic_complexity" in (tmp_path / "run/metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor_trains_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    path = ROOT / "configs/sngan/digits.yaml"
    assert_same(trained(path, "true", "32-true"), trained(path, "false", "32-true"))


def test_the_critic_is_compiled_where_its_gradients_are_not_differentiated():
    def compiled(kind, **settings):
        model = tiny(kind, **settings)
        return [name for name, part in model.named_children() if part in model.compiled_networks()]

    both, one = ["generator", "critic"], ["generator"]
    assert compiled(GAN) == compiled(MMDGAN) == compiled(WGANGP, penalty_weight=0.0) == both
    assert compiled(WGANGP) == compiled(MMDGAN, gradient_penalty=1.0) == compiled(MoLM) == one
    assert compiled(MMDGAN, activation_penalty=1.0) == one
    assert MMDNet(tiny_generator()).compiled_networks()
    assert SNGAN.critic_is_differentiated_once is GAN.critic_is_differentiated_once


def test_checkpoints_averages_and_exports_do_not_know(tmp_path):
    settings = {"generator": tiny_generator(output="sigmoid"), "gradient_clip": 0.1}
    model, average = tiny(compile=FAST, **settings), GeneratorEMA(0.5)
    trainer = fit(model, average)
    eager, its_average = (
        tiny(generator=tiny_generator(output="sigmoid"), gradient_clip=0.1),
        GeneratorEMA(0.5),
    )
    fit(eager, its_average)
    assert_same(model.state_dict(), eager.state_dict())
    assert_same(average.state_dict()["average"], its_average.state_dict()["average"])
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    eager.load_state_dict(saved["state_dict"])
    latent = model.sample_latent(3)
    export(model, tmp_path / "model.pth")
    export(model, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(latent), eager(latent))


def test_a_backend_that_is_not_there_is_told_in_one_line():
    with pytest.raises(ValueError, match="compile: nonsense is not allowed here"):
        fit(tiny(compile="nonsense"))


def test_a_compiler_that_is_not_there_is_told_in_one_line(monkeypatch):
    def no_compiler(function, backend):
        raise RuntimeError("InvalidCxxCompiler: No working\ncompiler\n\nSet TORCH_LOGS=+dynamo")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(ValueError, match="compile") as error:
        fit(tiny(compile=True))
    assert str(error.value) == (
        "compile: True is not allowed here (InvalidCxxCompiler: No working compiler); it must be "
        "false, or a backend of torch.compile whose compiler is installed"
    )
