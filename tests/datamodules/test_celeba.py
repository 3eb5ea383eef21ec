import shutil
from types import SimpleNamespace
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lightning_igm.data import CelebADataModule
from lightning_igm.data.sampler import pass_numbers

# Of the 14 images, 000003 and 000008 are of the validation part; 000004 and 000014 are tests.
SPLITS = {f"{i:06d}.jpg": {3: 1, 8: 1, 4: 2, 14: 2}.get(i, 0) for i in range(1, 15)}
TRAIN = [name for name, split in SPLITS.items() if split == 0]
TEST = [name for name, split in SPLITS.items() if split == 2]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The files in the real layout, without attributes."""
    root = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(0)
    folder = root / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    for name in SPLITS:
        noise = Image.fromarray(rng.integers(256, size=(6, 5, 3), dtype=np.uint8))
        noise.resize((178, 218), Image.Resampling.BICUBIC).save(folder / name, quality=95)
    lines = "".join(f"{name} {split}\n" for name, split in SPLITS.items())
    (root / "celeba" / "list_eval_partition.txt").write_text(lines)
    return root


@pytest.fixture
def root(original, tmp_path):
    return shutil.copytree(original, tmp_path / "data")


def pack(root):
    """Makes the archive of the folder, as it is downloaded."""
    folder = root / "celeba" / "img_align_celeba"
    with ZipFile(root / "celeba" / "img_align_celeba.zip", "w", ZIP_DEFLATED) as archive:
        archive.mkdir("img_align_celeba")
        for path in sorted(folder.iterdir()):
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(folder)
    return root


def write_attributes(root, names=tuple(SPLITS)):
    labels = np.random.default_rng(1).integers(2, size=(len(names), 40))
    attributes = " ".join(f"Attribute_{i}" for i in range(40))
    lines = [
        f"{name} " + " ".join(f"{2 * v - 1:2d}" for v in row)
        for name, row in zip(names, labels, strict=True)
    ]
    text = "\n".join([str(len(names)), attributes + " ", *lines]) + "\n"
    (root / "celeba" / "list_attr_celeba.txt").write_text(text)
    return torch.from_numpy(labels)


def ready(root, **kwargs):
    data = CelebADataModule(root=root, **{"batch_size": 2, **kwargs})
    data.prepare_data()
    data.setup()
    return data


def face(root, name):
    return Image.open(root / "celeba" / "img_align_celeba" / name).convert("RGB")


def triangle_weights(i):
    """Weights of output pixel i of 64 over 148 inputs: a triangle of half-width 148 / 64."""
    scale = 148 / 64
    centre = (i + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(148) + 0.5 - centre) / scale)
    return weights / weights.sum()


def test_crop_and_resize(root):
    data = ready(root)
    assert data.image_shape == (3, 64, 64)
    assert data.train_images.shape == (10, 3, 64, 64)
    assert data.test_images.shape == (2, 3, 64, 64)
    matrix = np.stack([triangle_weights(i) for i in range(64)])
    for images, names in ((data.train_images, TRAIN), (data.test_images, TEST)):
        for image, name in zip(images, names, strict=True):
            cut = np.asarray(face(root, name)).astype(float)[40:188, 15:163]
            small = np.einsum("ih,hwc,jw->cij", matrix, cut, matrix, optimize=True)
            assert np.abs(image.numpy() - small).max() <= 1.5


def test_no_augmentation_of_small_images(root):
    data = ready(root)
    loader = data.train_dataloader()
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    assert torch.equal(batch, data.to_float(data.train_images[next(iter(loader.sampler))]))


def test_large_images_are_the_centre(root):
    data = ready(root, size=160)
    assert data.image_shape == (3, 160, 160)
    assert data.train_images.shape == (10, 3, 178, 178)
    for images, names in ((data.train_images, TRAIN), (data.test_images, TEST)):
        for image, name in zip(images, names, strict=True):
            expected = np.asarray(face(root, name))[20:198].transpose(2, 0, 1)
            assert np.array_equal(image.numpy(), expected)


def test_training_images_in_order_are_augmented(root):
    data = ready(root, size=160, seed=3)
    batches = [data.on_after_batch_transfer(b, 0) for b in data.ordered_train_dataloader()]
    numbers = pass_numbers(10, seed=3, width=3)
    for image, stored, own in zip(torch.cat(batches), data.train_images, numbers, strict=True):
        assert torch.equal(image, data.to_float(augmented(stored, *own.tolist())))


def test_test_images_are_the_centre(root):
    data = ready(root, size=160)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]
    for image, name in zip(torch.cat(batches), TEST, strict=True):
        centre = np.asarray(face(root, name))[29:189, 9:169].transpose(2, 0, 1)
        assert torch.equal(image, data.to_float(torch.from_numpy(centre.copy())))


def augmented(image, flip, top, left):
    """One image by Pillow, from its numbers."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if flip < 0.5:
        picture = ImageOps.mirror(picture)
    row, column = int(19 * top), int(19 * left)
    cut = picture.crop((column, row, column + 160, row + 160))
    return torch.from_numpy(np.asarray(cut).transpose(2, 0, 1).copy())


def test_augmentation_is_that_of_each_image():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 3, 178, 178), dtype=torch.uint8, generator=generator)
    numbers = torch.rand(30, 3, generator=generator)
    before = images.clone()
    result = CelebADataModule(size=160).transform(images, numbers)
    assert torch.equal(images, before)
    for i in range(30):
        assert torch.equal(result[i], augmented(images[i], *numbers[i].tolist()))


def test_offsets_and_flips_are_equally_likely():
    rows = torch.arange(178, dtype=torch.uint8)
    images = torch.stack([rows[:, None].expand(178, 178), rows.expand(178, 178)])
    numbers = (torch.arange(190) + 0.5) / 190
    data = CelebADataModule(size=160)

    def offsets(column, channel):
        chosen = torch.full((190, 3), 0.9)
        chosen[:, column] = numbers
        return data.transform(images.expand(190, -1, -1, -1), chosen)[:, channel, 0, 0]

    expected = torch.arange(19).repeat_interleave(10).to(torch.uint8)
    assert torch.equal(offsets(1, 0), expected)
    assert torch.equal(offsets(2, 1), expected)
    # Columns 0.9 * 19 = 17 on; of a flipped image, back from the other side.
    expected = torch.tensor([177 - 17] * 95 + [17] * 95, dtype=torch.uint8)
    assert torch.equal(offsets(0, 1), expected)


def test_outermost_offsets():
    images = torch.arange(178, dtype=torch.uint8).expand(1, 1, 178, 178)
    data = CelebADataModule(size=160)
    first, last = data.transform(
        images.expand(2, -1, -1, -1), torch.tensor([[0.5, 0, 0], [0.5, 0, 1 - 2**-24]])
    )[:, 0, 0, [0, -1]].tolist()
    assert first == [0, 159]
    assert last == [18, 177]


def test_numbers_of_an_epoch_reach_the_augmentation(root):
    data = ready(root, size=160, batch_size=5)
    loader = data.train_dataloader()
    rows, numbers = next(iter(loader.sampler))
    assert numbers.shape == (5, 3)
    batch = data.on_after_batch_transfer(next(iter(loader)), 0)
    for image, row, number in zip(batch, rows, numbers, strict=True):
        expected = augmented(data.train_images[row], *number.tolist())
        assert torch.equal(image, data.to_float(expected))


def batches_of(root, rank=0, world_size=1, state=None, **kwargs):
    """Augmented batches of two epochs, or of what is left of them after a state."""
    data = CelebADataModule(root=root, size=160, seed=3, **kwargs)
    if world_size > 1:
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
    data.setup()
    if state is not None:
        data.load_state_dict(state)
    loader = data.train_dataloader()
    batches = []
    while data.epoch < 2:
        for batch in loader:
            batches.append(data.on_after_batch_transfer(batch, 0))
            data.batches_trained += 1
    return batches


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_see_the_augmented_batch_of_one_process(root, world_size):
    ready(root, size=160)
    one = batches_of(root, batch_size=world_size)
    assert len(one) == 2 * (10 // world_size)
    ranks = [batches_of(root, rank, world_size, batch_size=1) for rank in range(world_size)]
    for whole, *shares in zip(one, *ranks, strict=True):
        assert torch.equal(torch.cat(shares), whole)


def test_resumed_run_sees_the_same_augmentation(root):
    ready(root, size=160)
    whole = batches_of(root, batch_size=3)
    assert len(whole) == 6
    for done in range(6):
        state = {"epoch": done // 3, "batches_trained": done % 3}
        rest = batches_of(root, state=state, batch_size=3)
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[done:], strict=True))


def test_archive_holds_the_same_images(root):
    unpacked = ready(root, cache_dir=root / "a")
    packed = ready(pack(root), cache_dir=root / "b")
    assert unpacked.cache.name == packed.cache.name
    assert torch.equal(packed.train_images, unpacked.train_images)
    assert torch.equal(packed.test_images, unpacked.test_images)


def test_attributes(root):
    labels = write_attributes(root)
    data = ready(root)
    assert data.attribute_names == [f"Attribute_{i}" for i in range(40)]
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    rows = {name: labels[i] for i, name in enumerate(SPLITS)}
    assert torch.equal(data.train_labels, torch.stack([rows[name] for name in TRAIN]))
    assert torch.equal(data.test_labels, torch.stack([rows[name] for name in TEST]))


def test_no_attributes(root):
    data = ready(root)
    assert data.attribute_names is data.train_labels is data.test_labels is None


def edit(lines, number, old, new):
    assert old in lines[number]
    lines[number] = lines[number].replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: edit(lines, 0, "14", "15"), "has 16 lines, expected the number 14"),
        (lambda lines: lines.pop(), "has 15 lines, expected the number 14"),
        (lambda lines: edit(lines, 1, "Attribute_7", ""), "line 2: 39 attributes, expected 40"),
        (lambda lines: edit(lines, 4, "000003", "000004"), r"line 5: .*is not '000003\.jpg'"),
        (lambda lines: edit(lines, 6, " 1", " 1 1"), "line 7: .* 40 times 1 or -1"),
        (lambda lines: edit(lines, 6, " 1", " 0"), "line 7: .* 40 times 1 or -1"),
        (lambda lines: lines.__setitem__(9, ""), "line 10: '' is not"),
    ],
)
def test_attributes_of_other_images(root, change, message):
    write_attributes(root)
    path = root / "celeba" / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"list_attr_celeba\.txt.*{message}") as error:
        ready(root)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [64, 160])
def test_cache_serves_without_the_images(root, size):
    first = ready(root, size=size)
    images = first.train_images.clone()
    shutil.rmtree(root / "celeba" / "img_align_celeba")
    assert torch.equal(ready(root, size=size).train_images, images)
    assert first.cache.parent == root / "celeba"


def test_cache_elsewhere_and_one_for_each_preparation(root):
    folder = root / "a" / "b"
    small = ready(root, cache_dir=str(folder))
    large = ready(root, size=160, cache_dir=folder)
    assert small.cache.parent == large.cache.parent == folder
    assert small.cache.name.startswith("celeba-64-")
    assert large.cache.name.startswith("celeba-160-")
    partition = root / "celeba" / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("000005.jpg 0", "000005.jpg 2"))
    other = ready(root, cache_dir=folder)
    assert len(other.train_images) == 9
    assert len(list(folder.glob("*.npy"))) == 3


def damage(root, packed, name, content):
    """Replaces one image, or takes it away."""
    path = root / "celeba" / "img_align_celeba" / name
    path.unlink() if content is None else path.write_bytes(content)
    return pack(root) if packed else root


@pytest.mark.parametrize("packed", [False, True])
def test_missing_image(root, packed):
    damage(root, packed, "000005.jpg", None)
    with pytest.raises(FileNotFoundError, match=r"000005\.jpg is missing"):
        ready(root)
    assert not list((root / "celeba").glob("celeba-*.npy"))
    assert not list((root / "celeba").glob("*.partial"))


@pytest.mark.parametrize("packed", [False, True])
def test_image_of_another_size(root, packed):
    face(root, "000001.jpg").resize((218, 178)).save(root / "other.jpg")
    damage(root, packed, "000002.jpg", (root / "other.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"celeba.*000002\.jpg has 218x178 pixels, expected 178x2"):
        ready(root)


@pytest.mark.parametrize("packed", [False, True])
def test_truncated_image(root, packed):
    path = root / "celeba" / "img_align_celeba" / "000002.jpg"
    damage(root, packed, "000002.jpg", path.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"celeba.*000002\.jpg cannot be decoded") as error:
        ready(root)
    assert "\n" not in str(error.value)


def test_truncated_archive(root):
    path = pack(root) / "celeba" / "img_align_celeba.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"img_align_celeba\.zip is no complete zip file"):
        ready(root)


def test_damaged_member_of_the_archive(root):
    path = pack(root) / "celeba" / "img_align_celeba.zip"
    with ZipFile(path) as archive:
        member = archive.getinfo("img_align_celeba/000009.jpg")
    content = bytearray(path.read_bytes())
    start = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
    content[start : start + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"celeba\.zip.*000009\.jpg cannot be unpacked"):
        ready(root)


def test_missing_images_and_list(root):
    shutil.rmtree(root / "celeba" / "img_align_celeba")
    with pytest.raises(FileNotFoundError, match=r"img_align_celeba\.zip are missing; put"):
        ready(root)
    (root / "celeba" / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"list_eval_partition\.txt is missing; put"):
        ready(root)


@pytest.mark.parametrize("line", ["000002.jpg 7", "000002.jpg", ""])
def test_bad_line(root, line):
    (root / "celeba" / "list_eval_partition.txt").write_text(f"000001.jpg 0\n{line}\n")
    with pytest.raises(ValueError, match=rf"list_eval_partition\.txt, line 2: '{line}' is not"):
        ready(root)


def test_setup_without_cache(root):
    with pytest.raises(FileNotFoundError, match=r"call prepare_data\(\)"):
        CelebADataModule(root=root, batch_size=2).setup()


def test_stale_or_damaged_cache(root):
    cache = ready(root).cache
    np.save(cache, np.zeros((2, 3, 64, 64), np.uint8))
    with pytest.raises(ValueError, match=r"expected uint8 \(12, 3, 64, 64\)"):
        ready(root)
    cache.write_bytes(cache.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        ready(root)


def test_cache_that_cannot_be_written(root):
    (root / "file").write_text("")
    with pytest.raises(OSError, match=r"cache_dir='.*file': cannot write") as error:
        ready(root, cache_dir=root / "file")
    assert "\n" not in str(error.value)


def test_other_sizes():
    with pytest.raises(ValueError, match="size=128 must be 64 or 160"):
        CelebADataModule(size=128)
