"""Data sets as LightningDataModules."""

from datamodules.base import InMemoryDataModule
from datamodules.celeba import CelebADataModule
from datamodules.cifar10 import CIFAR10DataModule
from datamodules.color import colorize, colorize_float
from datamodules.color_mnist import ColorMNISTDataModule
from datamodules.digits import DigitsDataModule
from datamodules.gaussian import GaussianDataModule
from datamodules.image_array import ImageArrayDataModule
from datamodules.image_folder import ImageFolderDataModule
from datamodules.imagenet64 import ImageNet64DataModule
from datamodules.images import ImageDataModule
from datamodules.mnist import MNISTDataModule
from datamodules.ring import RingDataModule
from datamodules.stacked_mnist import StackedMNISTDataModule

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
