"""Every preset parses to what the paper says, and every method trains from its presets, shrunk."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

import lightning_igm
from lightning_igm.cli import main
from lightning_igm.cli.presets import method_of, presets, read_preset
from lightning_igm.modules import ImplicitGenerativeModule

ROOT = Path(__file__).parents[2]
PRESETS = list(presets().values())
METHODS = [
    method
    for name in lightning_igm.__all__
    if isinstance(method := getattr(lightning_igm, name), type)
    and issubclass(method, ImplicitGenerativeModule)
    and not inspect.isabstract(method)
]
# Generator, critic; counts of the papers' tables, and of the networks they describe.
MOMENTS = {
    "color_mnist": (1_557_571, 1_553_793),
    "stacked_mnist": (1_557_571, 1_553_793),
    "cifar10": (3_685_123, 5_464_033),
    "celeba": (21_425_283, 21_409_537),
    "cifar10_hidden": (3_685_123, 4_584_577),
}
SCALED = {
    "cifar10": (5_361_667, 5_860_865),
    "celeba": (13_405_891, 17_440_385),
    "imagenet64": (12_219_715, 10_103_297),
}
# Of the released codes of GRAM-nets, GMMN and MMD GAN; with a decoder, the critic counts it.
MATCHING = {
    "gramnet/ring": (12_402, 11_410),
    "gramnet/ring3d": (12_503, 11_510),
    "gramnet/gaussian": (3_202, 1_555),
    "gramnet/mnist": (1_533_984, 43_108),
    "gramnet/cifar10": (522_915, 521_088),
    "gramnet/cifar10_thin": (522_915, 210_624),
    "gramnet/cifar10_julia": (372_672, 575_560),
    "gramnet/celeba": (3_576_704, 4_395_976),
    "gan/ring": (12_402, 10_501),
    "gan/ring3d": (12_503, 10_601),
    "gan/gaussian": (3_202, 1_451),
    "gan/mnist": (1_533_984, 395_601),
    "gan/celeba_dcgan": (3_576_704, 2_765_569),
    "mmdgan/ring": (12_402, 11_410 + 11_402),
    "mmdgan/ring3d": (12_503, 11_510 + 11_503),
    "mmdgan/mnist_li": (698_240, 698_112 + 698_240),
    "mmdgan/cifar10_li": (1_183_616, 1_183_488 + 1_183_616),
    "mmdgan/celeba_li": (3_281_792, 3_281_664 + 3_281_792),
    "mmdnet/ring": (12_402, 0),
    "mmdnet/ring3d": (12_503, 0),
    "mmdnet/mnist": (1_533_984, 0),
    "mmdnet/mnist_gmmn": (1_149_904, 0),
    "mmdnet/mnist_codes": (379_104, 0),
}
SCALES = {"cifar10": 8, "celeba": 6, "imagenet64": 14}
OTHERS = ("gan", "gramnet", "mmdnet", "molm")
NO_CRITIC = ("drifting", "feature_matching", "gramnet", "mmdnet")
SETTINGS = {"Adam": {"lr", "betas"}, "RMSprop": {"lr", "alpha"}, "SGD": {"lr", "momentum"}}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def test_tables_name_presets():
    assert set(MATCHING) <= {name(path) for path in PRESETS}


def shrink(run_dir: Path) -> list[str]:
    return [
        *QUIET,
        "--trainer.accelerator=cpu",
        f"--run.dir={run_dir}",
        "--trainer.max_steps=4",
        "--samples.every_n_steps=2",
        "--checkpoint.every_n_steps=3",
        "--metrics.every_n_steps=null",
    ]


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_preset_parses_and_has_the_papers_networks(path):
    cli = main(["--config", str(path), *QUIET], run=False)
    data = path.stem.removesuffix("_random").removeprefix("sn_").removeprefix("plain_")
    critic = getattr(cli.model, "critic", torch.nn.Identity())
    counts = count(cli.model.generator), count(critic)
    assert counts == MATCHING.get(name(path), counts)
    if path.parent.name in ("molm", "gan") and data in MOMENTS:
        assert counts == MOMENTS[data]
    if path.parent.name not in OTHERS and data in SCALED:
        generator, critic = SCALED[data]
        outputs = getattr(cli.model.critic.layers[-1], "out_features", 1)
        features = cli.model.critic.layers[-1].in_features
        scales = SCALES[data] if path.stem.startswith("sn_") else 0
        assert counts == (generator, critic + (outputs - 1) * (features + 1) + scales)
    assert cli.trainer.max_steps > 0
    assert cli.model.generator.value_range == cli.datamodule.value_range


@pytest.mark.parametrize("path", PRESETS, ids=name)
def test_preset_spells_out_both_optimizers(path):
    arguments = read_preset(path)["model"]["init_args"]
    for player in {"generator", "critic"} & set(arguments):
        optimizer = arguments[f"{player}_optimizer"]
        assert set(optimizer["init_args"]) >= SETTINGS[optimizer["class_path"]]


@pytest.mark.parametrize("method", ["gan", "gramnet", "mmdgan"])
def test_optimizer_accident_is_the_only_difference_of_its_preset(method):
    ring, paper = (
        read_preset(ROOT / f"configs/{method}/{data}.yaml") for data in ("ring", "ring_paper")
    )
    for player in ("generator", "critic"):
        for preset, beta in ((ring, 0.999), (paper, 0.0999)):
            optimizer = preset["model"]["init_args"][f"{player}_optimizer"]
            assert optimizer["init_args"].pop("betas") == [0.5, beta]
    assert ring == paper


@pytest.mark.parametrize(
    ("preset", "steps", "penalty", "batch"),
    [
        ("color_mnist", 200_000, 0.1, 1000),
        ("stacked_mnist", 200_000, 0.1, 1000),
        ("cifar10", 250_000, 1.0, 200),
        ("celeba", 200_000, 1.0, 200),
        ("cifar10_hidden", 500_000, 1.0, 200),
    ],
)
def test_molm_presets_have_the_papers_hyper_parameters(preset, steps, penalty, batch):
    config = read_preset(ROOT / f"configs/molm/{preset}.yaml")
    arguments = config["model"]["init_args"]
    assert config["trainer"]["max_steps"] == steps
    assert config["data"]["init_args"]["batch_size"] == batch
    assert (arguments["critic_steps"], arguments["critic_interval"]) == (100, 2000)
    assert arguments["penalty_weight"] == penalty
    for player in ("generator", "critic"):
        assert arguments[f"{player}_optimizer"]["init_args"]["lr"] == 1e-4


@pytest.mark.parametrize("preset", ["cifar10_dcgan", "celeba"])
def test_latents_of_the_pytorch_code_are_between_0_and_1(preset):
    model = main(
        ["--config", str(ROOT / f"configs/gramnet/{preset}.yaml"), *QUIET], run=False
    ).model
    latents = model.sample_latent(1000, torch.Generator().manual_seed(0))
    assert latents.min() >= 0
    # No batch norm makes it the same: what all images share of the first maps is a pattern.
    maps = model.generator.layers[:2](latents).detach()
    pattern = maps.mean(0).var((1, 2)).mean() / maps.var((0, 2, 3)).mean()
    assert 0.5 < pattern < 0.9


@pytest.mark.parametrize("path", [p for p in PRESETS if p.stem.endswith("_random")], ids=name)
def test_random_twin_differs_in_learning_its_moments_alone(path):
    twin = read_preset(path)
    learned = read_preset(path.with_stem(path.stem.removesuffix("_random")))
    assert twin["model"]["init_args"].pop("learn_moments") is False
    assert twin == learned


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_presets(method):
    on_digits = [name for name in presets() if name.partition("/")[2].startswith("digits")]
    assert method.__name__ in {method_of(name) for name in on_digits}


@pytest.mark.parametrize("path", [p for p in PRESETS if p.stem.startswith("digits")], ids=name)
def test_digits_preset_trains(path, tmp_path):
    run = tmp_path / "run"
    method = path.parent.name
    cadence = [] if method in NO_CRITIC else ["--model.critic_steps=2"]
    if method == "molm":
        cadence.append("--model.critic_interval=3")
    if path.stem == "digits_li":
        cadence.append("--model.critic_burst_steps=3")
    if path.stem == "digits_codes":
        cadence += ["--model.pretraining.layer_steps=3", "--model.pretraining.joint_steps=4"]
    cli = main(
        ["fit", "--config", str(path), *shrink(run), *cadence, "--trainer.log_every_n_steps=1"]
    )
    assert cli.trainer.global_step == 4
    written = {str(p.relative_to(run)) for p in run.rglob("*.*")}
    assert written == {
        "config.yaml",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "interpolations.png",
        "samples.gif",
        "samples/real.png",
        "samples/step_00000002.png",
        "samples/step_00000004.png",
    }
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert "generator_loss" in (run / "metrics.csv").read_text().splitlines()[0]


POINTS = [p for p in PRESETS if p.stem in ("ring", "ring3d", "gaussian")]


@pytest.mark.parametrize("path", POINTS, ids=name)
def test_preset_of_points_trains(path, tmp_path):
    cli = main(
        [
            *("fit", "--config", str(path), *shrink(tmp_path / "run"), "--data.count=400"),
            *("--trainer.max_steps=2", "--trainer.log_every_n_steps=1"),
        ]
    )
    assert cli.trainer.global_step == 2
    assert cli.model.sample(5).shape == (5, *cli.datamodule.image_shape)
    assert "generator_loss" in (tmp_path / "run/metrics.csv").read_text().splitlines()[0]


def write_mnist(root: Path, images: int = 60) -> None:
    """Random images and labels in the layout and format of the originals."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels = rng.integers(0, 256, (images, 28, 28), dtype=np.uint8)
        header = np.array([0x803, images, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = rng.integers(0, 10, images, dtype=np.uint8)
        header = np.array([0x801, images], dtype=">i4").tobytes()
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


@pytest.mark.parametrize(
    "preset", ["molm/cifar10", "molm/cifar10_random", "molm/cifar10_hidden", "gan/cifar10"]
)
def test_cifar10_networks_train_on_random_images(preset, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    config = str(ROOT / f"configs/{preset}.yaml")
    cli = main(
        [
            *("fit", "--config", config, *shrink(tmp_path / "run"), "--trainer.max_steps=1"),
            *("--model.critic_steps=1", "--data=ImageArrayDataModule", "--data.batch_size=4"),
            *(f"--data.train={tmp_path / 'images.npy'}", "--data.value_range=[-1,1]"),
        ]
    )
    assert cli.trainer.global_step == 1
