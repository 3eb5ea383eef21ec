import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

from lightning_igm.evaluation.images import image_data, prepared_images
from lightning_igm.metrics import to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_level_survives_the_round_trip(dtype):
    unit = LEVELS.to(dtype) / 255
    assert torch.equal(to_uint8(unit, (0.0, 1.0)), LEVELS)
    assert torch.equal(to_uint8(unit * 2 - 1, (-1.0, 1.0)), LEVELS)
    assert torch.equal(to_uint8(LEVELS.to(dtype) / 127.5 - 1, (-1.0, 1.0)), LEVELS)


def test_truncation_would_not_survive():
    truncated = ((LEVELS.float() / 127.5 - 1 + 1) / 2 * 255).byte()
    assert not torch.equal(truncated, LEVELS)


def test_out_of_range_values_are_clamped_not_wrapped():
    images = torch.tensor([-0.01, 1.004, -float("inf"), float("inf"), float("nan")])
    assert to_uint8(images, (0.0, 1.0)).tolist() == [0, 255, 0, 255, 0]


def test_bfloat16_is_scaled_in_float32():
    images = torch.tensor([0.4980, -0.3359], dtype=torch.bfloat16)
    expected = ((images.double() + 1) / 2 * 255).round().to(torch.uint8)
    assert torch.equal(to_uint8(images, (-1.0, 1.0)), expected)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"value_range .*\(1.0, 0.0\)"):
        to_uint8(torch.zeros(1), (1.0, 0.0))
    with pytest.raises(ValueError, match="uint8"):
        to_uint8(LEVELS, (0.0, 1.0))


def test_a_trainer_without_image_data_is_refused():
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ValueError, match="datamodule must have ordered_train_dataloader, got None"):
        image_data(trainer)


def test_training_images_come_back_as_they_were():
    class Levels(LightningDataModule):
        value_range = (-1.0, 1.0)

        def ordered_train_dataloader(self):
            return LEVELS.view(16, 1, 4, 4).split(7)

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch.float() / 127.5 - 1

    data = Levels()
    ordered = data.ordered_train_dataloader()
    batches = list(prepared_images(ordered, data, torch.device("cpu")))
    assert [len(batch) for batch in batches] == [7, 7, 2]
    assert torch.equal(torch.cat(batches).flatten(), LEVELS)
