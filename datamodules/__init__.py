"""Data sets as LightningDataModules."""

from lightning_igm.data.base import InMemoryDataModule
from lightning_igm.data.celeba import CelebADataModule
from lightning_igm.data.cifar10 import CIFAR10DataModule
from lightning_igm.data.color import colorize, colorize_float
from lightning_igm.data.color_mnist import ColorMNISTDataModule
from lightning_igm.data.digits import DigitsDataModule
from lightning_igm.data.gaussian import GaussianDataModule
from lightning_igm.data.image_array import ImageArrayDataModule
from lightning_igm.data.image_folder import ImageFolderDataModule
from lightning_igm.data.imagenet64 import ImageNet64DataModule
from lightning_igm.data.images import ImageDataModule
from lightning_igm.data.mnist import MNISTDataModule
from lightning_igm.data.ring import RingDataModule
from lightning_igm.data.stacked_mnist import StackedMNISTDataModule

__all__ = [
    "CIFAR10DataModule",
    "CelebADataModule",
    "ColorMNISTDataModule",
    "DigitsDataModule",
    "GaussianDataModule",
    "ImageArrayDataModule",
    "ImageDataModule",
    "ImageFolderDataModule",
    "ImageNet64DataModule",
    "InMemoryDataModule",
    "MNISTDataModule",
    "RingDataModule",
    "StackedMNISTDataModule",
    "colorize",
    "colorize_float",
]
