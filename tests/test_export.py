"""A run's model in Python, and its generator for other programs."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_igm import GAN, load
from lightning_igm.cli import main
from lightning_igm.export import QuantisedGenerator, console, export
from lightning_igm.metrics.images import to_uint8
from lightning_igm.modules import MMDNet
from lightning_igm.networks import DCGANCritic, DCGANGenerator, MLPGenerator


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


def test_grey_images_become_rgb_and_normal_latents_stay():
    generator = DCGANGenerator(image_size=16, channels=1, output="tanh").eval()
    model = GAN(generator, DCGANCritic(image_size=16, channels=1))
    quantised = QuantisedGenerator(model)
    assert quantised.noise == "normal"
    latents = model.sample_latent(4)
    grey = to_uint8(generator(latents), (-1.0, 1.0))
    assert torch.equal(quantised(latents), grey.expand(-1, 3, -1, -1))


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
    sys.path.insert(0, str(Path(__file__).with_name("metrics")))
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
