"""Configs and checkpoints of versions in which methods and their arguments had other names."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import copied, fit, same, tiny, tiny_critic, tiny_generator

from lightning_igm import MMDGAN, AutoencoderMMDGAN, GRAMNet, MoLM, load
from lightning_igm.cli import main
from lightning_igm.cli.parser import current_model
from lightning_igm.modules.earlier_versions import bring_up_to_date

ROOT = Path(__file__).parents[2]
BURSTS = {"critic_burst_steps": None, "critic_burst_start": 20, "critic_burst_interval": 500}
WITHOUT_DECODER = {
    "decoder": None,
    "autoencoder_weight": 8.0,
    "one_sided_weight": 0.0,
    "swap_one_sided": False,
    "encoder_clip": None,
}
# What the old class, and what the old configs said beside what they say now.
OLD = {
    "mmdgan/digits_li": ("lightning_igm.modules.mmd_gan.MMDGAN", {}),
    "mmdgan/digits": ("lightning_igm.modules.mmd_gan.MMDGAN", WITHOUT_DECODER),
    "gramnet/digits": ("lightning_igm.GRAMNet", BURSTS | {"critic_steps": 1}),
    "molm/digits": ("lightning_igm.modules.molm.MoLM", BURSTS),
}
FEW = [
    *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.batch_size=16"),
    *("--trainer.enable_model_summary=false", "--metrics.every_n_steps=null"),
    *("--model.generator.init_args.width=4", "--model.critic.init_args.width=4"),
]
SHORT = {
    "mmdgan/digits_li": ["--model.critic_burst_steps=1", "--model.critic_steps=1"],
    "mmdgan/digits": ["--model.critic_steps=1"],
    "molm/digits": [
        *("--model.critic_steps=1", "--data.batch_size=500"),
        *("--model.generator_scheduler=null", "--model.critic_scheduler=null"),
    ],
}


@pytest.fixture(scope="module", params=OLD)
def old(request, tmp_path_factory):
    """A run of two steps, whose config and checkpoint are as they were written then."""
    name = request.param
    class_path, arguments = OLD[name]
    run = tmp_path_factory.mktemp("old") / "run"
    words = [f"--run.dir={run}", "--trainer.max_steps=2", *FEW, *SHORT.get(name, [])]
    model = main(["fit", f"--config={name}", *words]).model
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["class_path"] = class_path
    config["model"]["init_args"].update(arguments)
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    path = run / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"].update(arguments, _class_path=class_path)
    torch.save(content, path)
    return run, model


def test_an_old_run_goes_on_and_is_scored(old, tmp_path):
    run, model = old
    cli = main(["fit", f"--config={run}/config.yaml", "--ckpt_path=last", "--trainer.max_steps=3"])
    assert type(cli.model) is type(model)
    assert cli.trainer.global_step == 3
    main(["fit", f"--config={run}/config.yaml", f"--run.dir={tmp_path}", "--trainer.max_steps=1"])


def test_an_old_run_is_loaded(old):
    run, model = old
    loaded = load(run, "raw")
    assert type(loaded) is type(model)
    for kind in {type(model), MMDGAN} if isinstance(model, MMDGAN) else {type(model)}:
        again = kind.load_from_checkpoint(run / "checkpoints/last.ckpt")
        assert type(again) is type(model)
        assert same(copied(again), copied(loaded))


@pytest.mark.parametrize(
    ("kind", "arguments"), [(MMDGAN, WITHOUT_DECODER), (GRAMNet, BURSTS), (MoLM, BURSTS)]
)
def test_what_was_built_in_python_is_loaded(kind, arguments, tmp_path):
    model = tiny(kind, critic=tiny_critic(out_dim=1))
    fit(model, max_steps=1).save_checkpoint(tmp_path / "old.ckpt")
    content = torch.load(tmp_path / "old.ckpt", weights_only=True)
    content["hyper_parameters"].update(arguments)
    torch.save(content, tmp_path / "old.ckpt")
    networks = {"generator": tiny_generator(seed=1), "critic": tiny_critic(seed=1)}
    loaded = kind.load_from_checkpoint(tmp_path / "old.ckpt", **networks, weights_only=True)
    assert same(copied(loaded), copied(model))


def test_with_a_decoder_it_is_the_other_class(tmp_path):
    networks = {"critic": tiny_critic(out_dim=3), "decoder": tiny_generator(latent_dim=3)}
    model = tiny(AutoencoderMMDGAN, one_sided_weight=16.0, **networks)
    fit(model, max_steps=1).save_checkpoint(tmp_path / "old.ckpt")
    loaded = MMDGAN.load_from_checkpoint(
        tmp_path / "old.ckpt", generator=tiny_generator(seed=1), **networks
    )
    assert type(loaded) is AutoencoderMMDGAN
    assert loaded.one_sided_weight == 16
    assert same(copied(loaded), copied(model))


class Own(MMDGAN):
    pass


def test_what_cannot_be_brought_up_to_date_stays():
    for kind, arguments in [
        (Own, {"decoder": "a decoder"}),
        (MMDGAN, {"encoder_clip": 0.01}),
        (MoLM, {"critic_burst_steps": 3, "critic_burst_start": 5}),
        (GRAMNet, {"critic_steps": 2}),
        (dict, WITHOUT_DECODER),
    ]:
        left = dict(arguments)
        assert bring_up_to_date(kind, left) is kind
        assert left == arguments


@pytest.mark.parametrize(
    "text",
    ["model: MMDGAN", "model: {class_path: MMDGAN, decoder: x}", "{critic_steps", "decoder", "[]"],
)
def test_other_configs_are_left_as_they_are(text):
    assert current_model(text) == text


def test_presets_are_of_now():
    for path in (ROOT / "configs").glob("*/*.yaml"):
        assert current_model(path.read_text()) == path.read_text(), path
