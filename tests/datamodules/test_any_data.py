"""Every method, and every callback that looks at images, on ordinary loaders."""

import gc
import inspect
import pickle
import re
import weakref

import pytest
import torch
from lightning.pytorch import LightningDataModule
from modules.tiny_models import copied, same, sgd, tiny_trainer
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import lightning_igm.modules as methods
from lightning_igm.callbacks import CriticSpectrum, ImageMetrics, KIDLearningRate, SampleGrid
from lightning_igm.data import ImageDataModule
from lightning_igm.data.adapter import data_of
from lightning_igm.modules import (
    GAN,
    MMDGAN,
    SNGAN,
    AdversarialModule,
    AutoencoderMMDGAN,
    GRAMNet,
    ImplicitGenerativeModule,
    MoLM,
    SobolevGAN,
)
from lightning_igm.networks import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator

METHODS = [
    found
    for name in methods.__all__
    if inspect.isclass(found := getattr(methods, name))
    and issubclass(found, ImplicitGenerativeModule)
    and not inspect.isabstract(found)
]
PIXELS = torch.randint(
    256, (22, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
IMAGES = PIXELS / 127.5 - 1
MAYBE_MID_EPOCH = pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint")


class Dictionaries(Dataset):
    """As data sets of Hugging Face are, with_format("torch")."""

    def __init__(self, images=IMAGES, key="image"):
        self.images, self.key = images, key

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {self.key: self.images[index], "label": index % 3}


class Flipped(Dictionaries):
    """With a random transform, as those of torchvision are."""

    def __getitem__(self, index):
        image = self.images[index]
        return image.flip(2) if torch.rand(()) < 0.5 else image


class Stream(IterableDataset):
    def __init__(self, images=IMAGES):
        self.images = images

    def __iter__(self):
        return iter(self.images)


FORMS = {
    "tensors": IMAGES,
    "tuples": TensorDataset(IMAGES, torch.arange(22)),
    "dictionaries": Dictionaries(),
}


def generator_of(points, output, latent_dim=4):
    if points:
        return MLPGenerator(latent_dim=latent_dim, image_shape=(2,), hidden=(5,))
    return DCGANGenerator(latent_dim=latent_dim, image_size=8, width=3, init="he", output=output)


def networks(points, output, spectral):
    torch.manual_seed(0)
    generator = generator_of(points, output)
    if points:
        return generator, MLPCritic(image_shape=(2,), hidden=(5,))
    return generator, DCGANCritic(image_size=8, width=3, hidden_dim=5, spectral=spectral)


def model_of(method=GAN, points=False, output="tanh", **settings):
    generator, critic = networks(points, output, "learnable" if method is SNGAN else "none")
    if not issubclass(method, AdversarialModule):
        return method(generator, generator_optimizer=sgd, **settings)
    settings = {"generator_optimizer": sgd, "critic_optimizer": sgd} | settings
    if method is SobolevGAN:
        settings["rho"] = 1e-3
    if method is AutoencoderMMDGAN:
        settings["decoder"] = generator_of(points, output, latent_dim=1)
    if method is not GRAMNet:
        settings.setdefault("critic_steps", 1)
    return method(generator, critic, **settings)


def trained(loader, *callbacks, model=None, **settings):
    torch.manual_seed(0)
    model = model or model_of()
    trainer = tiny_trainer(*callbacks, **({"max_steps": 2} | settings))
    trainer.fit(model, loader)
    return model


def lines(caplog):
    """What is said of the data."""
    return [m for m in (r.getMessage() for r in caplog.records) if m.startswith("data:")]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_method_trains_on_a_loader(method, form):
    model = model_of(method)
    before = copied(model.generator)
    trained(DataLoader(FORMS[form], batch_size=4, shuffle=True), model=model)
    assert model.trainer.global_step == 2
    assert not same(before, copied(model.generator))


# A critic of points has no spectral normalization.
@pytest.mark.parametrize("method", [m for m in METHODS if m is not SNGAN], ids=lambda m: m.__name__)
def test_every_method_trains_on_points(method):
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    model = model_of(method, points=True)
    trained(DataLoader(TensorDataset(points), batch_size=4), model=model)
    assert model.trainer.global_step == 2


def test_all_forms_train_alike():
    results = [copied(trained(DataLoader(data, batch_size=4))) for data in FORMS.values()]
    assert all(same(results[0], other) for other in results[1:])


@pytest.mark.parametrize(("output", "low"), [("tanh", -1.0), ("sigmoid", 0.0)])
def test_pixels_come_in_the_range_that_the_generator_makes(output, low):
    floats = PIXELS / 127.5 - 1 if low else PIXELS / 255
    models = [
        trained(DataLoader(data, batch_size=4), model=model_of(output=output))
        for data in (PIXELS, floats)
    ]
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-6)


def test_workers_read_the_same():
    models = [
        trained(DataLoader(Dictionaries(), batch_size=4, shuffle=True, **workers))
        for workers in ({}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True})
    ]
    assert all(same(copied(models[0]), copied(model)) for model in models[1:])


def test_a_stream_trains():
    loader = DataLoader(Stream(), batch_size=4)
    assert same(copied(trained(loader)), copied(trained(DataLoader(IMAGES, batch_size=4))))


def test_loaders_that_batch_otherwise_train():
    sampler = BatchSampler(RandomSampler(IMAGES), 4, drop_last=True)
    for loader in (
        DataLoader(IMAGES, batch_sampler=sampler),
        DataLoader(IMAGES, batch_size=None, sampler=sampler),
        [DataLoader(IMAGES, batch_size=4)],
    ):
        assert trained(loader).trainer.global_step == 2


# --- passes over all images -------------------------------------------------------------------


def moments(data=None, loader=None, **settings):
    torch.manual_seed(0)
    model = model_of(MoLM, **settings)
    tiny_trainer(max_steps=2, precision="64-true").fit(model, loader, datamodule=data)
    return model.training_set_moments(), model


@pytest.mark.parametrize("workers", [0, 2])
def test_moments_are_those_of_the_data_module_in_memory(workers):
    data = ImageDataModule.from_dataset(Dictionaries(), batch_size=4, value_range=(-1, 1))
    _, model = moments(data)
    kept = copied(model.critic)
    for dataset in (PIXELS, Dictionaries(PIXELS), Dictionaries(IMAGES.double())):
        loader = DataLoader(dataset, 5, shuffle=True, drop_last=True, num_workers=workers)
        _, other = moments(loader=loader)
        other.critic.load_state_dict(kept)
        # The pixels are scaled in float32.
        torch.testing.assert_close(
            other.training_set_moments(), model.training_set_moments(), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(IMAGES, batch_size=4, sampler=SubsetRandomSampler(range(3, 14))),
        DataLoader(
            IMAGES,
            batch_sampler=BatchSampler(SubsetRandomSampler(range(3, 14)), 5, drop_last=False),
        ),
    ],
    ids=["sampler", "batch_sampler"],
)
def test_a_pass_is_over_what_the_sampler_gives(loader):
    found, model = moments(loader=loader)
    _, whole = moments(loader=DataLoader(IMAGES[3:14], batch_size=3))
    whole.critic.load_state_dict(model.critic.state_dict())
    torch.testing.assert_close(found, whole.training_set_moments(), rtol=1e-9, atol=1e-12)


def test_a_pass_leaves_the_draws_of_training_alone():
    generator = torch.Generator().manual_seed(3)
    weighted = WeightedRandomSampler(torch.rand(22), 9, generator=generator)
    _, model = moments(loader=DataLoader(IMAGES, batch_size=4, sampler=weighted))
    states = generator.get_state(), torch.get_rng_state()
    passes = [model.training_set_moments() for _ in range(2)]
    assert torch.equal(*passes)
    assert torch.equal(generator.get_state(), states[0])
    assert torch.equal(torch.get_rng_state(), states[1])


def test_random_transforms_are_those_of_the_image_in_every_pass():
    passes = []
    for batch_size, workers in ((4, 0), (7, 2)):
        loader = DataLoader(Flipped(), batch_size, shuffle=True, num_workers=workers)
        _, model = moments(loader=loader, learn_moments=False)
        passes += [model.training_set_moments() for _ in range(2)]
    plain, _ = moments(loader=DataLoader(IMAGES, batch_size=4), learn_moments=False)
    for other in passes[1:]:
        torch.testing.assert_close(passes[0], other, rtol=1e-9, atol=1e-12)
    assert (passes[0] - plain).norm() > 1e-6 * plain.norm()


# --- data modules -----------------------------------------------------------------------------


class Plain(LightningDataModule):
    """A data module as one writes them: sets are made by stage, a hook prepares batches."""

    def __init__(self, dictionaries=False):
        super().__init__()
        self.dictionaries, self.stages = dictionaries, []

    def setup(self, stage):
        self.stages.append(stage)
        setattr(self, {"validate": "val"}.get(stage, stage), Dictionaries(PIXELS))
        if stage == "fit":
            self.val = Dictionaries(PIXELS)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return {"image": batch["image"] / 127.5 - 1}

    def train_dataloader(self):
        return DataLoader(self.fit, batch_size=4, shuffle=True, num_workers=1)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=4)

    def test_dataloader(self):
        return [DataLoader(self.test, batch_size=4)]


@pytest.mark.parametrize("method", [GAN, MoLM, MMDGAN])
def test_a_data_module_of_ones_own(method):
    data, model = Plain(), model_of(method)
    tiny_trainer(max_steps=2).fit(model, datamodule=data)
    assert data.stages == ["fit"]
    if method is MoLM:
        expected = moments(loader=DataLoader(IMAGES, batch_size=4))[1]
        expected.critic.load_state_dict(model.critic.state_dict())
        torch.testing.assert_close(
            model.training_set_moments().double(),
            expected.training_set_moments(),
            rtol=1e-3,
            atol=1e-5,
        )


# --- callbacks --------------------------------------------------------------------------------


class Features(nn.Module):
    """Colours of four patches, and logits."""

    num_features = 12

    def forward(self, images):
        means = nn.functional.avg_pool2d(images.double() / 255, 4).flatten(1)
        return means, means[:, :5]


def metrics(every_n_steps=None, **settings):
    defaults = {"num_samples": 20, "kid_subset_size": 10, "kid_subsets": 4, "is_splits": 2}
    scores = ["fid", "kid", "is", "ms_ssim", "precision_recall"]
    return ImageMetrics(
        every_n_steps, extractor=Features(), scores=scores, pairs=20, **(defaults | settings)
    )


def assert_same_scores(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-12, nan_ok=True), name


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("dataset", [PIXELS, IMAGES, Dictionaries(PIXELS)], ids=type)
def test_scores_are_those_of_the_data_module_in_memory(dataset, split, tmp_path):
    data = ImageDataModule.from_dataset(dataset, batch_size=4, value_range=(-1, 1))
    callback = metrics(split=split)
    trainer = tiny_trainer(callback, limit_val_batches=1.0, default_root_dir=tmp_path)
    trainer.validate(model_of(), datamodule=data, verbose=False)
    other = metrics(split=split)
    trainer = tiny_trainer(other, limit_val_batches=1.0, default_root_dir=tmp_path)
    trainer.validate(model_of(), DataLoader(dataset, batch_size=5), verbose=False)
    assert_same_scores(other.latest, callback.latest)
    assert other.protocol["real_images"] == 22


def test_scores_in_training_and_at_test_of_a_data_module_of_ones_own(tmp_path):
    data, model = Plain(), model_of()
    during, last = metrics(2), metrics()
    tiny_trainer(during, max_steps=2, default_root_dir=tmp_path).fit(model, datamodule=data)
    trainer = tiny_trainer(last, default_root_dir=tmp_path)
    trainer.test(model, datamodule=data, verbose=False)
    assert data.stages == ["fit", "test", "fit"]  # Scores are against the training images.
    assert during.latest["step"] == 2
    assert_same_scores(last.latest | {"step": 2}, during.latest)


def test_callbacks_change_no_bit_of_the_training(tmp_path):
    loader = DataLoader(Flipped(), batch_size=4, shuffle=True)
    plain = trained(loader, max_steps=4)
    watched = trained(
        loader,
        metrics(2),
        KIDLearningRate(2, num_samples=10, memory=9, extractor=Features()),
        SampleGrid(2, num_samples=4, nrow=2),
        CriticSpectrum(2),
        max_steps=4,
        default_root_dir=tmp_path,
    )
    assert same(copied(plain), copied(watched))
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {
        "real.png",
        "step_00000002.png",
        "step_00000004.png",
    }


@pytest.mark.parametrize("data", [DataLoader(torch.rand(9, 2), 3), DataLoader(Stream(), 4)])
def test_grids_of_points_and_of_a_stream(data, tmp_path):
    points = not isinstance(data.dataset, Stream)
    grid = SampleGrid(1, num_samples=4, nrow=2)
    callbacks = [grid, CriticSpectrum(1)]
    trained(data, *callbacks, model=model_of(points=points), default_root_dir=tmp_path)
    names = {path.name for path in (tmp_path / "samples").iterdir()}
    assert names == {"step_00000001.png", "step_00000002.png"} | ({"real.png"} if points else set())


def test_predictions_are_as_many_as_a_loader_has_examples():
    loader = DataLoader(range(7), batch_size=4)
    made = tiny_trainer().predict(model_of(), loader)
    assert [len(images) for images in made] == [4, 3]


# --- resume -----------------------------------------------------------------------------------


def resumed(tmp_path, loader, at, until, **settings):
    """Weights of a run that stopped, and of the same without a break."""
    stopped = trained(loader, max_steps=at, **settings)
    stopped.trainer.save_checkpoint(tmp_path / "at.ckpt")
    torch.manual_seed(0)
    model = model_of()
    trainer = tiny_trainer(max_steps=until, **settings)
    trainer.fit(model, loader, ckpt_path=tmp_path / "at.ckpt", weights_only=False)
    assert trainer.global_step == until
    return copied(model), copied(trained(loader, max_steps=until, **settings))


def test_a_run_goes_on_after_an_epoch_to_the_same_bits(tmp_path):
    loader = DataLoader(TensorDataset(IMAGES), batch_size=4, drop_last=True)
    assert same(*resumed(tmp_path, loader, at=5, until=8))


@MAYBE_MID_EPOCH
def test_a_run_goes_on_within_an_epoch(tmp_path):
    resumed(tmp_path, DataLoader(Dictionaries(), batch_size=4, shuffle=True), at=3, until=8)


def test_nothing_outlives_the_trainer():
    model = trained(DataLoader(IMAGES, batch_size=4), model=model_of(MoLM))
    assert pickle.loads(pickle.dumps(data_of(model.trainer))) is None
    alive = weakref.ref(model), weakref.ref(data_of(model.trainer))
    del model
    gc.collect()
    assert [each() for each in alive] == [None, None]


def test_data_are_those_of_the_latest_call():
    model = trained(DataLoader(IMAGES, batch_size=4))
    trainer, first = model.trainer, data_of(model.trainer)
    assert data_of(trainer) is first
    trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = -1, 3
    trainer.fit(model, DataLoader(IMAGES[:6], batch_size=4))
    assert len(data_of(trainer).train_data) == 6
    trainer.predict(model, DataLoader(range(3)), return_predictions=False)
    assert data_of(trainer).image_shape == (3, 8, 8)
    assert data_of(tiny_trainer()) is None


# --- what is said -----------------------------------------------------------------------------


def test_one_line_tells_what_is_not_exact(caplog, tmp_path):
    grid = SampleGrid(1, num_samples=4)
    trained(DataLoader(IMAGES, batch_size=4), grid, max_steps=8, default_root_dir=tmp_path)
    told = lines(caplog)
    assert len(told) == 1
    assert "a DataLoader decides the order" in told[0]
    assert "from_dataset" in told[0]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("images", "output", "message"),
    [
        ((IMAGES + 1) / 2, "tanh", "range over 0 to 1 .* makes -1 to 1"),
        (IMAGES, "sigmoid", "range over -1 to 1 .* makes 0 to 1"),
        (2 * IMAGES, "tanh", "range over -2 to 2 .* makes -1 to 1"),
    ],
)
def test_another_range_than_the_generators_is_told(images, output, message, stream, caplog):
    data = Stream(images) if stream else images
    trained(DataLoader(data, batch_size=22), model=model_of(output=output))
    (line,) = (line for line in lines(caplog) if "range" in line)
    assert re.search(message, line)


def test_a_last_batch_of_one_image_is_told(caplog):
    trained(DataLoader(IMAGES[:9], batch_size=4))
    assert any("drop_last=True" in line for line in lines(caplog))


WHOLE = "not allowed where all images are needed"


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (DataLoader(IMAGES[:0], 4), "Tensor without images"),
        (DataLoader(Stream(IMAGES[:0]), 4), "without images"),
        (DataLoader(IMAGES[:3], 4, drop_last=True), "no batch; there are 3 images"),
        (DataLoader(Dictionaries(key="img"), 4), "a dictionary of img, label .* 'image'"),
        (DataLoader(range(9), 4), r"shape \(4,\)"),
        (DataLoader(IMAGES.long(), 4), r"torch\.int64"),
        (DataLoader(IMAGES / 0, 4), "finite"),
        (DataLoader(PIXELS.float(), 4), "range over 0 to 255"),
        (DataLoader(IMAGES[:, :1], 4), r"generator: .*\(3, 8, 8\).*\(1, 8, 8\)"),
        (DataLoader(IMAGES.movedim(1, 3), 4), r"\(8, 8, 3\).*channels first"),
        (DataLoader(Stream(IMAGES.movedim(1, 3)), 4), r"\(8, 8, 3\).*channels first"),
        (DataLoader([IMAGES[0], IMAGES[0, :, :5]], 2), "stack expects each tensor.*one size"),
        (DataLoader([IMAGES[0], IMAGES[0, :, :5]], 1), r"\(3, 5, 8\) after \(3, 8, 8\)"),
        (DataLoader([None] * 4, 2), "first batch cannot be made .*NoneType"),
        (DataLoader(IMAGES, 4, collate_fn=list), r"\(3, 8, 8\).* \(8, 8\)"),
        (DataLoader([(0, 1)] * 4, 4, collate_fn=list), "images in a int are not allowed"),
        (DataLoader([{}] * 4, 2), "a dictionary of none"),
        ([DataLoader(IMAGES, 4)] * 2, "2 training loaders"),
    ],
)
def test_bad_loaders(loader, message):
    with pytest.raises(ValueError, match=message) as error:
        trained(loader)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Stream(), 4),
        DataLoader(IMAGES, batch_size=None, sampler=BatchSampler(RandomSampler(IMAGES), 4, False)),
    ],
)
@pytest.mark.parametrize("by", [None, metrics(1), KIDLearningRate(1, 3, extractor=Features())])
def test_what_needs_all_images_refuses_a_loader_that_cannot_give_them(loader, by):
    with pytest.raises(ValueError, match=WHOLE) as error:
        trained(loader, *([by] if by else []), model=model_of(GAN if by else MoLM))
    assert "\n" not in str(error.value)


def test_workers_errors_are_one_line():
    loader = DataLoader([IMAGES[0], IMAGES[0, :, :5]], 2, num_workers=1)
    with pytest.raises(ValueError, match=r"first batch cannot be made .* one size") as error:
        trained(loader)
    assert "\n" not in str(error.value)


def test_training_on_some_batches_only_has_no_pass_over_all():
    with pytest.raises(ValueError, match="overfit_batches=2"):
        trained(DataLoader(IMAGES, 4), model=model_of(MoLM), overfit_batches=2)
