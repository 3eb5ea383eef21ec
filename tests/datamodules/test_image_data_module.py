import warnings
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from lightning_igm.data import ImageDataModule


class Numbered(ImageDataModule):
    """Image i has the value i everywhere, so a batch names its images."""

    name = "numbered"

    def __init__(self, count=23, batch_size=4, **kwargs):
        super().__init__(batch_size, **kwargs)
        self.count = count

    def load_images(self):
        values = torch.arange(self.count, dtype=torch.uint8).view(-1, 1, 1, 1)
        return values.expand(-1, 3, 2, 2).contiguous(), values[:7].expand(-1, 3, 2, 2).contiguous()


def ready(rank=0, world_size=1, **kwargs):
    data = Numbered(**kwargs)
    if world_size > 1:
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    data.setup()
    return data


def ids(batch):
    return batch[:, 0, 0, 0].tolist()


def train_ids(data):
    return [ids(batch) for batch in data.train_dataloader()]


def test_an_epoch_is_shuffled_full_batches_without_repetition():
    data = ready()
    loader = data.train_dataloader()
    batches = [ids(batch) for batch in loader]
    assert len(batches) == len(loader) == 5
    assert all(len(batch) == 4 for batch in batches)
    seen = [i for batch in batches for i in batch]
    assert len(set(seen)) == 20
    assert seen != sorted(seen)


def test_order_depends_on_seed_and_epoch_alone():
    data = ready(seed=3)
    torch.manual_seed(1)
    first, second = train_ids(data), train_ids(data)
    assert first != second
    torch.manual_seed(2)
    again = ready(seed=3)
    assert [train_ids(again), train_ids(again)] == [first, second]
    assert train_ids(ready(seed=4)) not in (first, second)


@pytest.mark.parametrize(
    "loader", ["train_dataloader", "ordered_train_dataloader", "test_dataloader"]
)
def test_global_random_state_is_left_alone(loader):
    data = ready()
    before = torch.get_rng_state()
    list(getattr(data, loader)())
    assert torch.equal(torch.get_rng_state(), before)


def test_exhausted_iterator_moves_to_the_next_epoch():
    data = ready()
    for _ in data.train_dataloader():
        data.batches_trained += 1
    assert data.state_dict() == {"epoch": 1, "batches_trained": 0}


def test_epochs_advance_when_the_last_batch_is_never_followed_by_a_request():
    # Lightning takes len(loader) batches and calls iter() again; nobody counts here.
    data, reference = ready(), ready()
    loader = data.train_dataloader()
    epochs = []
    for _ in range(3):
        iterator = iter(loader)
        epochs.append([ids(next(iterator)) for _ in range(len(loader))])
    assert epochs == [train_ids(reference) for _ in range(3)]


def count_and_collect(data, batches):
    """Trains on that many batches as a trainer does, counting each one after it is done."""
    seen = []
    loader = data.train_dataloader()
    while len(seen) < batches:
        iterator = iter(loader)
        for _ in range(len(loader) - data.batches_trained % len(loader)):
            seen.append(ids(next(iterator)))
            data.batches_trained += 1
            if len(seen) == batches:
                break
    return seen


@pytest.mark.parametrize("interruption", range(1, 13))
def test_resumed_run_sees_the_very_next_batch(interruption):
    whole = count_and_collect(ready(), 13)
    first = ready()
    seen = count_and_collect(first, interruption)
    resumed = ready()
    resumed.load_state_dict(first.state_dict())
    assert len(resumed.train_dataloader()) == 5
    assert seen + count_and_collect(resumed, 13 - interruption) == whole


@pytest.mark.parametrize("world_size", [2, 3])
def test_rank_shards_make_up_the_batch_of_one_process(world_size):
    one = train_ids(ready(batch_size=2 * world_size))
    shards = [train_ids(ready(r, world_size, batch_size=2)) for r in range(world_size)]
    assert all(len(shard) == len(one) for shard in shards)
    assert [list(chain(*parts)) for parts in zip(*shards, strict=True)] == one


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_ordered_loader_covers_each_image_once(world_size, batch_size):
    seen = []
    for rank in range(world_size):
        data = ready(rank, world_size, batch_size=batch_size)
        loader = data.ordered_train_dataloader()
        batches = [ids(batch) for batch in loader]
        assert len(batches) == len(loader)
        assert all(len(batch) == batch_size for batch in batches[:-1])
        seen += chain(*batches)
        assert data.state_dict() == {"epoch": 0, "batches_trained": 0}
    assert seen == list(range(23))


def test_evaluation_loaders_give_the_test_images_in_order():
    data = ready()
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert [ids(batch) for batch in loader] == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), [0, 1], [-1, 1]])
def test_conversion_maps_each_level_into_the_value_range(value_range):
    data = Numbered(value_range=value_range)
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    low, high = data.value_range
    values = data.on_after_batch_transfer(levels, 0)
    assert values.dtype == torch.float32
    exact = low + (high - low) * levels.double() / 255
    torch.testing.assert_close(values.double(), exact, rtol=0, atol=1e-7)
    assert values.min() == low
    assert values.max() == high
    assert torch.equal(levels.flatten(), torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("batch", [torch.rand(2, 3), torch.arange(3), "text"])
def test_conversion_leaves_everything_else_alone(batch):
    assert Numbered().on_after_batch_transfer(batch, 0) is batch


def test_state_and_shape_after_setup():
    data = ready()
    assert data.image_shape == (3, 2, 2)
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    train = data.train_images
    data.setup("validate")
    assert data.train_images is train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, r"batch_size=0 must be at least 1"),
        ({"seed": -1}, r"seed=-1 must not be negative"),
        ({"value_range": (0, 255)}, r"value_range=\(0, 255\) must be \(0, 1\) or \(-1, 1\)"),
        ({"value_range": (0,)}, r"value_range=\(0,\) must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Numbered(**arguments)


def test_batch_larger_than_the_training_set():
    with pytest.raises(ValueError, match="batch_size=24 must be at most 23"):
        ready(batch_size=24)
    data = ready(1, 2, batch_size=12)
    with pytest.raises(
        ValueError, match="batch_size=12 on 2 processes must be at most 23 together"
    ):
        data.train_dataloader()


def test_images_before_setup():
    with pytest.raises(RuntimeError, match=r"Numbered\.setup\(\)"):
        Numbered().train_dataloader()


class Recorder(LightningModule):
    """Records the images of every batch; the weight exists because Lightning wants an optimizer."""

    def __init__(self, data):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.data = [data]
        self.train_seen, self.predicted = [], []

    def images(self, batch):
        assert batch.dtype == torch.float32
        return [round(v) for v in (batch[:, 0, 0, 0] * 255).tolist()]

    def training_step(self, batch, batch_idx):
        self.train_seen.append(self.images(batch))
        return self.weight * batch.mean()

    def predict_step(self, batch, batch_idx):
        self.predicted.append(self.images(batch))
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Counter(Callback):
    def on_train_batch_end(self, trainer, *args):
        trainer.datamodule.batches_trained += 1


class Writer(BasePredictionWriter):
    def __init__(self):
        super().__init__("epoch")

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        self.batch_indices = batch_indices


def trainer(tmp_path, *callbacks, **kwargs):
    return Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **kwargs,
    )


@pytest.fixture
def expected_warnings():
    """Lightning on data in memory, without a validation step, and on a recent torch."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message=".*but have no `validation_step`")
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        yield


@pytest.mark.usefixtures("expected_warnings")
@pytest.mark.parametrize("interruption", [3, 5, 7])
def test_lightning_resumes_with_the_very_next_batch(tmp_path, interruption):
    def fit(steps, path=None):
        data = Numbered()
        model = Recorder(data)
        run = trainer(tmp_path, Counter(), max_steps=steps, max_epochs=-1)
        run.fit(model, datamodule=data, ckpt_path=path)
        return run, model.train_seen

    _, whole = fit(12)
    first, seen = fit(interruption)
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    _, rest = fit(12, tmp_path / "stopped.ckpt")
    assert seen + rest == whole
    assert len(whole) == 12


@pytest.mark.usefixtures("expected_warnings")
def test_lightning_predicts_the_test_images_with_their_indices(tmp_path):
    data, writer = Numbered(), Writer()
    model = Recorder(data)
    trainer(tmp_path, writer).predict(model, datamodule=data)
    assert list(chain(*model.predicted)) == list(range(7))
    assert writer.batch_indices == [[[0, 1, 2, 3], [4, 5, 6]]]


@pytest.mark.usefixtures("expected_warnings")
def test_overfit_batches_is_refused(tmp_path):
    data = Numbered()
    with pytest.raises(ValueError, match="overfit_batches=2 is not supported"):
        trainer(tmp_path, max_steps=1, overfit_batches=2).fit(Recorder(data), datamodule=data)


@pytest.mark.usefixtures("expected_warnings")
def test_limited_epochs_go_on_where_the_last_one_stopped(tmp_path):
    data = Numbered()
    model = Recorder(data)
    trainer(tmp_path, Counter(), max_epochs=2, limit_train_batches=2).fit(model, datamodule=data)
    assert model.train_seen == train_ids(ready())[:4]
