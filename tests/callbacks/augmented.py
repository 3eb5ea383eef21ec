"""Images that are cut and flipped at random when they are trained on."""

import torch
from tiny_gan import TinyGAN

from lightning_igm.data import ImageDataModule


class CutImages(ImageDataModule):
    """6x6 pixels, brighter to the right and to the bottom, cut to a random 4x4 and flipped."""

    name = "cut"
    image_shape = (3, 4, 4)
    random_numbers = 3

    def __init__(self, count=2000, seed=0, batch_size=64, root=None):
        super().__init__(batch_size, seed)
        self.count, self.root = count, root

    def load_images(self):
        draw = torch.Generator().manual_seed(5)
        noise = torch.randint(40, (self.count, 3, 6, 6), generator=draw)
        ramp = torch.arange(6) * 20
        images = (noise + ramp + ramp[:, None]).byte()
        return images, images

    def transform(self, images, numbers):
        if numbers is None:
            return images[..., 1:5, 1:5]
        cut = []
        for image, (flip, top, left) in zip(images, numbers.tolist(), strict=True):
            row, column = int(3 * top), int(3 * left)
            part = image[:, row : row + 4, column : column + 4]
            cut.append(part.flip(2) if flip < 0.5 else part)
        return torch.stack(cut)


class LawGAN(TinyGAN):
    """A perfect generator: its samples are training images, with fresh augmentation or without."""

    def __init__(self, augmented=True):
        super().__init__()
        self.data, self.augmented = CutImages(), augmented
        self.data.setup()

    @torch.no_grad()
    def sample(self, n, generator=None):
        rows = torch.randint(self.data.count, (n,), generator=generator)
        numbers = torch.rand(n, 3, generator=generator) if self.augmented else None
        return self.data.transform(self.data.train_images[rows], numbers) / 255
