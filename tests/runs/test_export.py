"""A run's model in Python, and its generator for other programs."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_igm import GAN, load
from lightning_igm.cli import main
from lightning_igm.metrics.images import to_uint8
from lightning_igm.modules import MMDNet
from lightning_igm.networks import Autoencoder, DCGANCritic, DCGANGenerator, MLPGenerator
from lightning_igm.runs.export import QuantisedGenerator, console, export


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = ["--config", "configs/smmdgan/digits.yaml", f"--run.dir={folder}"]
    words += ["--trainer.max_steps=2", "--metrics.every_n_steps=null", "--ema.decay=0.5"]
    main(["fit", *words, "--trainer.enable_progress_bar=false"])
    return folder


def test_a_run_is_loaded_with_averaged_or_raw_weights(run):
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    average = state["callbacks"]["GeneratorEMA"]["average"]
    for path in (run, str(run / "checkpoints/last.ckpt")):
        model = load(path)
        assert type(model).__name__ == "SMMDGAN"
        assert not model.training
        for name, tensor in model.generator.state_dict().items():
            assert torch.equal(tensor, average[name])
    for name, tensor in load(run, "raw").state_dict().items():
        assert torch.equal(tensor, state["state_dict"][name])
    assert load(run).sample(3).shape == (3, 3, 16, 16)


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_the_checkpoint_before_serves_when_the_last_is_damaged(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    shutil.copy(folder / "last.ckpt", folder / "previous.ckpt")
    (folder / "last.ckpt").write_bytes(b"cut")
    with pytest.warns(UserWarning, match=r"last.ckpt' is damaged.*previous.ckpt' is taken"):
        assert type(load(tmp_path / "run")).__name__ == "SMMDGAN"
    (folder / "last.ckpt").unlink()
    assert type(load(tmp_path / "run")).__name__ == "SMMDGAN"
    (folder / "previous.ckpt").rename(folder / "last.ckpt")
    (folder / "last.ckpt").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"last.ckpt' is damaged"):
        load(tmp_path / "run")


def test_no_module_is_imported_because_a_checkpoint_names_it(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_methods.py").write_text(
        "from lightning_igm import SMMDGAN\nclass Mine(SMMDGAN): pass\n"
    )
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    nested = {"generator": {"class_path": "my_methods.Mine"}}
    torch.save(state | {"hyper_parameters": state["hyper_parameters"] | nested}, "nested")
    with pytest.raises(ValueError, match="import my_methods first"):
        load("nested")
    for class_path, message in (
        ("my_methods.Mine", "import my_methods first"),
        ("lightning_igm.load", "no method of this package"),
        ("lightning_igm.Nothing", "is not there"),
    ):
        state["hyper_parameters"]["_class_path"] = class_path
        torch.save(state, class_path)
        with pytest.raises(ValueError, match=message):
            load(class_path)
    assert "my_methods" not in sys.modules
    with pytest.raises(ValueError, match="import: 'no_such' cannot be imported"):
        console(["my_methods.Mine", "g.pt2", "--import", "no_such"])
    console(["my_methods.Mine", "g.pt2", "--import", "my_methods"])
    assert Path("g.pt2").exists()
    assert type(load("my_methods.Mine")).__name__ == "Mine"
    monkeypatch.delitem(sys.modules, "my_methods")


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing"):
        load("nothing")
    with pytest.raises(ValueError, match="weights: 'ema'"):
        load("nothing", "ema")
    Path("text").write_text("text")
    with pytest.raises(ValueError, match="'text' is damaged"):
        load("text")
    torch.save(Malicious(), "malicious", pickle_module=pickle)
    with pytest.raises(ValueError, match=r"malicious.*is refused"):
        load("malicious")
    assert not Path("touched").exists()
    python = {"state_dict": {}, "global_step": 0, "loops": {}}
    torch.save(python, "python")
    with pytest.raises(ValueError, match="not made by igm fit"):
        load("python")


@pytest.mark.filterwarnings("ignore:.*torch.jit.load. is deprecated:FutureWarning")
def test_exports_make_the_generators_images(run, tmp_path, capsys):
    for name in ("g.pth", "g.pt2"):
        console([str(run), str(tmp_path / name)])
    printed = capsys.readouterr().out
    model = load(run)
    noise = torch.rand(5, model.latent_dim)
    expected = model(2 * noise - 1)  # The preset's latents are uniform.
    assert "--input1-model-z-type uniform_0_1 --input1-model-z-size 48" in printed
    program = torch.export.load(tmp_path / "g.pt2").module()
    assert torch.allclose(program(2 * noise - 1), expected, atol=1e-6)
    images = torch.jit.load(tmp_path / "g.pth")(noise)
    assert images.dtype == torch.uint8
    assert (images.int() - to_uint8(expected, (0.0, 1.0)).int()).abs().max() <= 1
    with pytest.raises(ValueError, match=r"g.pth' exists"):
        export(model, tmp_path / "g.pth")
    with pytest.raises(ValueError, match=r"g.onnx.*must end with .pth or .pt2"):
        export(model, tmp_path / "g.onnx")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".pt2", ".pth"])
def test_a_model_in_training_is_exported_as_it_samples(run, tmp_path, suffix):
    model = load(run).train()
    export(model, tmp_path / f"model{suffix}")
    assert model.generator.training
    latent = model.eval().sample_latent(3)
    if suffix == ".pt2":
        program, expected = torch.export.load(tmp_path / "model.pt2").module(), model(latent)
        torch.testing.assert_close(program(latent), expected)
    else:
        noise = (latent + 1) / 2
        program = torch.jit.load(tmp_path / "model.pth")
        levels = program(noise).int() - QuantisedGenerator(model)(noise).int()
        assert levels.abs().max() <= 1


def test_grey_images_become_rgb_and_normal_latents_stay():
    generator = DCGANGenerator(image_size=16, channels=1, output="tanh").eval()
    model = GAN(generator, DCGANCritic(image_size=16, channels=1))
    quantised = QuantisedGenerator(model)
    assert quantised.noise == "normal"
    latents = model.sample_latent(4)
    grey = to_uint8(generator(latents), (-1.0, 1.0))
    assert torch.equal(quantised(latents), grey.expand(-1, 3, -1, -1))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize(
    ("distribution", "low"), [("normal", None), ("uniform", -1), ("unit_uniform", 0)]
)
def test_an_export_takes_the_noise_that_it_is_called_with(tmp_path, distribution, low):
    generator = DCGANGenerator(image_size=16, output="tanh")
    model = GAN(generator, DCGANCritic(image_size=16), latent_distribution=distribution).eval()
    assert QuantisedGenerator(model).noise == ("normal" if low is None else "uniform_0_1")
    noise = torch.rand(4, model.latent_dim)
    latents = noise if low is None else low + (1 - low) * noise
    export(model, tmp_path / "g.pth")
    found = torch.jit.load(tmp_path / "g.pth")(noise).int()
    assert (found - to_uint8(model(latents), (-1.0, 1.0)).int()).abs().max() <= 1


def test_generated_codes_are_decoded(tmp_path):
    generator = MLPGenerator(4, (3,), (6,), output="sigmoid")
    model = MMDNet(generator, autoencoder=Autoencoder((1, 8, 8), (5,), 3)).eval()
    latents = model.sample_latent(4)
    expected = model(latents)
    export(model, tmp_path / "g.pt2")
    program = torch.export.load(tmp_path / "g.pt2").module()
    torch.testing.assert_close(program(latents), expected)
    images = to_uint8(expected, (0.0, 1.0)).expand(-1, 3, -1, -1)
    assert torch.equal(QuantisedGenerator(model)(latents), images)


def test_what_makes_no_images_is_refused(tmp_path):
    points = MMDNet(MLPGenerator(4, (2,), (6,), output="sigmoid"))
    with pytest.raises(ValueError, match="must be images"):
        export(points, tmp_path / "g.pth")
    unbounded = MMDNet(MLPGenerator(4, (2,), (6,)))
    with pytest.raises(ValueError, match="MLPGenerator states no range"):
        export(unbounded, tmp_path / "g.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_torch_fidelitys_own_command_takes_the_generator(run, tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "metrics"))
    import random_inception

    export(load(run), tmp_path / "g.pth")
    weights = random_inception.write(tmp_path / "weights.pth")
    command = [sys.executable, "-m", "torch_fidelity.fidelity", "--cpu", "--isc", "--json"]
    command += ["--input1", str(tmp_path / "g.pth"), "--input1-model-z-type", "uniform_0_1"]
    command += ["--input1-model-z-size", "48", "--input1-model-num-samples", "20"]
    command += ["--feature-extractor-weights-path", str(weights), "--batch-size", "10"]
    command += ["--isc-splits", "2", "--no-cache", "--silent"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "inception_score_mean" in done.stdout
