"""Two ranks share the work of scoring and give the numbers of one, unequal shares included."""

import tempfile

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from two_ranks import started

from lightning_igm.callbacks import ImageMetrics
from lightning_igm.data import ImageDataModule
from lightning_igm.distributed import rank, world_size
from lightning_igm.evaluation.settings import known_scores
from lightning_igm.modules import GAN
from lightning_igm.networks import DCGANCritic, DCGANGenerator


class NoiseImages(ImageDataModule):
    name = "noise"
    image_shape = (3, 16, 16)
    random_numbers = 1

    def load_images(self):
        draw = torch.Generator().manual_seed(0)
        images = torch.randint(256, (41, *self.image_shape), generator=draw, dtype=torch.uint8)
        return images, images

    def transform(self, images, numbers):
        """Half of the training images are inverted at random."""
        return images if numbers is None else images.where(numbers[:, :, None, None] < 0.5, ~images)


class Means(nn.Module):
    num_features = 3

    def __init__(self):
        super().__init__()
        self.images = 0

    def forward(self, images):
        self.images += len(images)
        means = (images.double() / 255).mean((2, 3))
        return means, 20 * means


def validate(folder, samples, batch_size, data_batch):
    """Scores, images that this rank's extractor saw, real images, and what :func:`run` returns."""
    metrics = ImageMetrics(
        None,
        samples,
        Means(),
        batch_size=batch_size,
        kid_subset_size=20,
        kid_subsets=3,
        scores=list(known_scores()),
        pairs=50,
        cache_dir=folder,
    )
    kept = run(metrics, data_batch)
    return metrics.latest, metrics.extractor.images, metrics.protocol["real_images"], kept


def run(metrics, data_batch):
    """Validate; whether the generator's buffers, which differ between ranks, are left alone."""
    torch.manual_seed(0)
    model = GAN(
        DCGANGenerator(latent_dim=4, image_size=16, width=4, init="he"),
        DCGANCritic(image_size=16, width=4, hidden_dim=6, init="he"),
    )
    drift = Drift()
    ranks = world_size()
    trainer = Trainer(
        default_root_dir=tempfile.mkdtemp(),  # For scores.json.
        accelerator="cpu",
        devices=ranks,
        strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
        callbacks=[drift, metrics],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=1,
    )
    trainer.validate(model, datamodule=NoiseImages(batch_size=data_batch), verbose=False)
    after = model.generator.buffers()
    return all(torch.equal(a, b) for a, b in zip(drift.buffers, after, strict=True))


class Drift(Callback):
    """Running statistics of the ranks grow apart; Lightning joins them before this."""

    def on_validation_start(self, trainer, pl_module):
        for buffer in pl_module.generator.buffers():
            if buffer.is_floating_point():
                buffer += rank()
        self.buffers = [buffer.clone() for buffer in pl_module.generator.buffers()]


@pytest.fixture(scope="module")
def ranks():
    return started(2)


@pytest.mark.parametrize(
    ("samples", "batch_size", "data_batch", "shares"),
    [(50, 10, 7, (30, 20)), (45, 20, 41, (25, 20)), (30, 40, 41, (30, 0))],
)
def test_two_ranks_give_one_ranks_numbers(ranks, samples, batch_size, data_batch, shares):
    expected, seen, real, _ = validate(None, samples, batch_size, data_batch)
    assert (seen, real) == (samples + 41, 41)
    answers = ranks.run(validate, None, samples, batch_size, data_batch)
    for (scores, images, count, kept), share, own in zip(answers, shares, (20, 21), strict=True):
        assert scores == pytest.approx(expected, rel=1e-6, abs=1e-9)
        assert images == share + own
        assert count == 41
        assert kept
    assert answers[0][0] == answers[1][0]


def test_any_number_of_ranks_uses_the_same_file(ranks, tmp_path):
    alone = validate(tmp_path, 50, 10, 7)
    first, second = ranks.run(validate, tmp_path, 50, 10, 7)
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert (first[1], second[1]) == (30, 20)
    assert first[0] == second[0] == pytest.approx(alone[0], rel=1e-6, abs=1e-9)
    assert first[2] == second[2] == 41
    other = tmp_path / "other"
    fresh, _ = ranks.run(validate, other, 50, 10, 7)
    assert fresh[0] == pytest.approx(alone[0], rel=1e-6, abs=1e-9)
    assert [p.name for p in other.glob("*.pt")] == [p.name for p in tmp_path.glob("*.pt")]


class Blind(Means):
    """Hides its number of features until there are some."""

    num_features = 1

    def forward(self, images):
        return images.flatten(1)[:, :45].double()


def refused():
    metrics = ImageMetrics(None, 50, Blind(), kid_subset_size=20, kid_subsets=2)
    try:
        run(metrics, 7)
    except ValueError as error:
        return str(error)


def test_all_ranks_hear_of_too_few_images(ranks):
    answers = ranks.run(refused)
    assert answers == ["FID with 45 features needs more than 45 real images, got 41"] * 2
