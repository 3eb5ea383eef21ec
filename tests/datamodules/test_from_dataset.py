"""The module in memory that is made of a map-style data set."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modules.tiny_models import copied, fit, same, tiny
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

from lightning_igm.data import ImageDataModule

PIXELS = torch.randint(
    256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
GREY = PIXELS[:, :1]
LABELS = torch.arange(12) % 4


def picture(pixels, mode=None):
    found = Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy())
    return found if mode is None else found.convert(mode)


class Examples(Dataset):
    """What a function makes of a number."""

    def __init__(self, make, count=12, **attributes):
        self.make, self.count = make, count
        self.__dict__.update(attributes)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


def ready(dataset, *arguments, **settings):
    data = ImageDataModule.from_dataset(dataset, *arguments, **({"batch_size": 4} | settings))
    data.setup()
    return data


DATASETS = {
    "pixels": PIXELS,
    "a list": list(PIXELS),
    "tuples": TensorDataset(PIXELS, LABELS),
    "0 to 1": TensorDataset(PIXELS / 255, LABELS),
    "-1 to 1": TensorDataset(PIXELS / 127.5 - 1, LABELS),
    "double": TensorDataset(PIXELS.double() / 255),
    "channels last": TensorDataset(PIXELS.movedim(1, 3)),
    "arrays": [image.movedim(0, 2).numpy() for image in PIXELS],
    "float arrays": [image.movedim(0, 2).numpy() / 255 for image in PIXELS],
    "arrays, channels first": [image.numpy() for image in PIXELS],
    "pictures": Examples(lambda i: picture(PIXELS[i])),
    "labelled pictures": Examples(lambda i: (picture(PIXELS[i]), int(LABELS[i]))),
    "dictionaries": Examples(lambda i: {"image": picture(PIXELS[i]), "label": LABELS[i].item()}),
    "dictionaries of tensors": Examples(lambda i: {"label": LABELS[i], "image": PIXELS[i]}),
    "a subset": Subset(Examples(lambda i: PIXELS[i - 5], 17), range(5, 17)),
    "with an alpha channel": Examples(lambda i: picture(PIXELS[i], "RGBA")),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_images_are_the_data_sets(kind):
    data = ready(DATASETS[kind])
    assert data.image_shape == (3, 8, 8)
    assert data.train_images.dtype == torch.uint8
    assert torch.equal(data.train_images, PIXELS)
    assert torch.equal(data.test_images, PIXELS)


@pytest.mark.parametrize(
    "kind", ["tuples", "labelled pictures", "dictionaries", "dictionaries of tensors"]
)
def test_labels_are_kept(kind):
    data = ready(DATASETS[kind])
    assert data.train_labels.dtype == torch.int64
    assert torch.equal(data.train_labels, LABELS)
    assert torch.equal(data.test_labels, LABELS)
    assert data.num_classes == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda i: PIXELS[i],
        lambda i: (PIXELS[i], 0.5),
        lambda i: (PIXELS[i], {"boxes": []}),
        lambda i: (PIXELS[i], None if i else 1),
        lambda i: {"image": PIXELS[i]},
    ],
)
def test_without_whole_numbers_there_are_no_labels(make):
    data = ready(Examples(make))
    assert data.train_labels is data.test_labels is data.num_classes is None


def test_classes_are_as_many_as_the_data_set_states():
    def make(i):
        return {"image": PIXELS[i], "label": 0}

    hugging_face = {"image": object(), "label": SimpleNamespace(num_classes=9)}
    assert ready(Examples(make, features=hugging_face)).num_classes == 9
    assert ready(Examples(lambda i: (PIXELS[i], 0), classes=["a", "b"])).num_classes == 2


def test_other_keys():
    dataset = Examples(lambda i: {"img": PIXELS[i], "fine": int(LABELS[i])})
    data = ready(dataset, image_key="img", label_key="fine")
    assert torch.equal(data.train_images, PIXELS)
    assert torch.equal(data.train_labels, LABELS)


@pytest.mark.parametrize(
    "make",
    [
        lambda i: GREY[i],
        lambda i: GREY[i, 0],
        lambda i: GREY[i, 0].numpy(),
        lambda i: GREY[i] / 255,
        lambda i: picture(GREY[i]),
    ],
)
def test_grey_images(make):
    data = ready(Examples(make))
    assert data.image_shape == (1, 8, 8)
    assert torch.equal(data.train_images, GREY)


def test_a_grey_picture_among_colours_and_modes():
    mixed = Examples(lambda i: picture(PIXELS[i]) if i != 3 else picture(GREY[3]))
    images = ready(mixed).train_images
    assert torch.equal(images[3], GREY[3].expand(3, 8, 8))
    assert torch.equal(images[4:], PIXELS[4:])
    first = Examples(lambda i: picture(PIXELS[i]) if i else picture(GREY[0]))
    assert ready(first, mode="RGB").image_shape == (3, 8, 8)
    assert ready(first, mode="L").image_shape == (1, 8, 8)
    palette = Examples(lambda i: picture(GREY[i].expand(3, 8, 8), "P"))
    assert ready(palette).image_shape == (3, 8, 8)


def test_a_float_range_is_what_it_is_said_to_be():
    light = Examples(lambda i: PIXELS[i] / 255)
    images = ready(light, float_range=(-1.0, 1.0)).train_images
    assert torch.equal(ready(light, float_range=(0.0, 1.0)).train_images, PIXELS)
    assert torch.equal(images, ((PIXELS / 255 + 1) / 2 * 255).round().byte())


@pytest.mark.parametrize(
    ("images", "given", "value_range"),
    [
        (PIXELS, None, (0.0, 1.0)),
        (PIXELS / 255, None, (0.0, 1.0)),
        (PIXELS / 127.5 - 1, None, (-1.0, 1.0)),
        (PIXELS / 127.5 - 1, (0.0, 1.0), (0.0, 1.0)),
        (PIXELS, (-1.0, 1.0), (-1.0, 1.0)),
    ],
)
def test_the_range_is_the_data_sets_unless_given(images, given, value_range):
    data = ready(images, value_range=given)
    assert data.value_range == value_range
    low, high = value_range
    expected = PIXELS / 255 * (high - low) + low
    torch.testing.assert_close(data.to_float(data.train_images), expected, rtol=0, atol=1e-5)


def test_a_test_split_of_its_own():
    data = ready(TensorDataset(PIXELS, LABELS), TensorDataset(PIXELS[:5].flip(2), LABELS[:5]))
    assert torch.equal(data.test_images, PIXELS[:5].flip(2))
    assert torch.equal(data.test_labels, LABELS[:5])
    assert len(data.train_images) == 12


def test_workers_read_the_same():
    dataset = Examples(lambda i: {"image": picture(PIXELS[i]), "label": int(LABELS[i])})
    data = ready(dataset, num_workers=2)
    assert torch.equal(data.train_images, PIXELS)
    assert torch.equal(data.train_labels, LABELS)


def test_random_transforms_are_drawn_once_and_move_nothing():
    dataset = Examples(lambda i: PIXELS[i].flip(2) if torch.rand(()) < 0.5 else PIXELS[i])
    state = torch.get_rng_state()
    first, second = ready(dataset).train_images, ready(dataset, num_workers=2).train_images
    assert torch.equal(first, second)
    assert not torch.equal(first, PIXELS)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchvision(tmp_path):
    steps = [transforms.Resize(8), transforms.CenterCrop(8), transforms.ToTensor()]
    fake = FakeData(9, (3, 10, 12), transform=transforms.Compose(steps))
    data = ready(fake)
    expected = torch.stack([image for image, _ in fake]).mul(255).round().byte()
    assert torch.equal(data.train_images, expected)
    assert data.name == "FakeData"
    for label, pixels in zip("abab", PIXELS, strict=False):
        (tmp_path / label).mkdir(exist_ok=True)
        picture(pixels).save(tmp_path / label / f"{pixels.sum()}.png")
    data = ready(ImageFolder(tmp_path))
    assert data.num_classes == 2
    assert data.train_labels.tolist() == [0, 0, 1, 1]
    data.train_labels[0] = 1  # They are its own.


def test_it_trains_as_the_other_data_modules_do():
    models = [tiny(), tiny()]
    fit(models[0], data=ImageDataModule.from_dataset(PIXELS, batch_size=4))
    fit(models[1], data=ImageDataModule.from_dataset(PIXELS / 255, batch_size=4))
    assert same(*map(copied, models))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PIXELS)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Stream(), "dataset: a Stream is not allowed"),
        ({"train": PIXELS, "test": PIXELS}, "dataset: a dict of train, test"),
        (PIXELS[:0], "dataset: a Tensor without images"),
        (iter(PIXELS), "iterator is not allowed"),
        (Examples(lambda i: {"img": PIXELS[i], "label": 1}), "example 0: .* img, label .* 'image'"),
        (Examples(lambda i: PIXELS[i].long()), r"example 0: .*torch\.int64"),
        (Examples(lambda i: "a.png"), "a str is not allowed"),
        (Examples(lambda i: ()), "an empty tuple"),
        (Examples(lambda i: PIXELS[i, :, :0]), r"\(3, 0, 8\)"),
        (Examples(lambda i: PIXELS[i].repeat(2, 1, 1)[:4]), r"\(4, 8, 8\).*1 or 3 channels"),
        (Examples(lambda i: PIXELS[i, :, i // 6 :]), r"\(3, 7, 8\) .* after one \(3, 8, 8\)"),
        (Examples(lambda i: PIXELS[i] if i != 2 else PIXELS[i] / 255), r"float32 .* after .*uint8"),
        (Examples(lambda i: picture(PIXELS[i]) if i else picture(GREY[0])), "mode='RGB'"),
        (Examples(lambda i: picture(GREY[i], "I")), "mode I "),
        (Examples(lambda i: PIXELS[i] / 0), "finite"),
        (Examples(lambda i: PIXELS[i].float()), "range over 0 to 255"),
        (Examples(lambda i: PIXELS[i] / 100 - 1), "range over -1 to 1.55"),
    ],
)
def test_bad_data_sets(dataset, message):
    for workers in (0, 1):
        with pytest.raises(ValueError, match=message) as error:
            ready(dataset, num_workers=workers)
        assert "\n" not in str(error.value)


def test_a_later_image_out_of_the_range_of_the_first():
    dataset = Examples(lambda i: PIXELS[i % 12] / 255 - int(i > 256), 300)
    with pytest.raises(ValueError, match=r"range over -1 to .* float_range of 0 to 1"):
        ready(dataset)


def test_bad_arguments():
    with pytest.raises(ValueError, match="value_range"):
        ImageDataModule.from_dataset(PIXELS, value_range=(0, 255))
    with pytest.raises(ValueError, match="float_range"):
        ImageDataModule.from_dataset(PIXELS, float_range=(1.0, 0.0))
    with pytest.raises(ValueError, match="test: a Stream"):
        ImageDataModule.from_dataset(PIXELS, Stream())
    with pytest.raises(ValueError, match="batch_size=13"):
        ready(PIXELS, batch_size=13)
    assert np.array_equal(ready(PIXELS, batch_size=12).train_images, PIXELS)
