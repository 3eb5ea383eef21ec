"""Data sets as LightningDataModules."""

from datamodules.celeba import CelebADataModule
from datamodules.cifar10 import CIFAR10DataModule
from datamodules.color import colorize, colorize_float
from datamodules.color_mnist import ColorMNISTDataModule
from datamodules.digits import DigitsDataModule
from datamodules.image_array import ImageArrayDataModule
from datamodules.images import ImageDataModule

__all__ = [
    "CIFAR10DataModule",
    "CelebADataModule",
    "ColorMNISTDataModule",
    "DigitsDataModule",
    "ImageArrayDataModule",
    "ImageDataModule",
    "colorize",
    "colorize_float",
]
