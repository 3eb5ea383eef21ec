"""Passes over all training images in order, with augmentation."""

from types import SimpleNamespace

import pytest
import torch

from lightning_igm.data import ImageDataModule
from lightning_igm.data.sampler import pass_numbers


class Shifted(ImageDataModule):
    """Image i has the value i, and up to 200 more at random when it is trained on."""

    random_numbers = 2

    def load_images(self):
        images = torch.arange(23, dtype=torch.uint8).view(-1, 1, 1, 1)
        return images, images[:7]

    def transform(self, images, numbers):
        if numbers is None:
            return images
        shift = (100 * numbers).floor().sum(1).byte()
        return images + shift.view(-1, 1, 1, 1)


def ready(rank=0, world_size=1, seed=0, batch_size=4):
    data = Shifted(batch_size, seed)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    data.setup()
    return data


def images_of(data, loader="ordered_train_dataloader"):
    batches = [data.on_after_batch_transfer(batch, 0) for batch in getattr(data, loader)()]
    return (255 * torch.cat(batches)).round().int().flatten()


@pytest.mark.parametrize("batch_size", [1, 4, 23])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_each_image_is_augmented_by_its_own_numbers(world_size, batch_size):
    ranks = [ready(rank, world_size, batch_size=batch_size) for rank in range(world_size)]
    shift = (100 * pass_numbers(23, seed=0, width=2)).floor().sum(1).int()
    assert shift.unique().numel() > 10
    expected = torch.arange(23) + shift
    for _ in range(2):
        assert torch.equal(torch.cat([images_of(data) for data in ranks]), expected)


def test_another_seed_augments_otherwise():
    assert not torch.equal(images_of(ready()), images_of(ready(seed=1)))


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader", "predict_dataloader"])
def test_test_images_are_as_they_are(loader):
    assert images_of(ready(), loader).tolist() == list(range(7))


def test_a_pass_moves_nothing():
    data, untouched = ready(), ready()
    before = torch.get_rng_state()
    training = iter(data.train_dataloader())
    taken = next(training)
    images_of(data)
    assert torch.equal(torch.get_rng_state(), before)
    assert data.state_dict() == {"epoch": 0, "batches_trained": 0}
    batches = [taken, *training]
    for batch, expected in zip(batches, untouched.train_dataloader(), strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, expected, strict=True))


def test_the_numbers_of_a_pass_are_not_those_of_training():
    data = ready(batch_size=23)
    [(images, numbers)] = list(data.train_dataloader())
    rows = images.flatten().int()
    assert not (pass_numbers(23, 0, 2)[rows] == numbers).any()
    assert not (pass_numbers(23, 0, 2) == numbers).any()
