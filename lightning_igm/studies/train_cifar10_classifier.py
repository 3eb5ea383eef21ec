"""Makes weights of the CIFAR-10 classifier: ``--root data`` is the folder of the data set.

The default of 10 epochs ends at 85 percent on the test images. On one core that multiplies bfloat16
in hardware it takes 12 minutes with ``--bfloat16``; a step takes 2.6 times as long without. The
seed is fixed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_igm.data import CIFAR10DataModule
from lightning_igm.metrics.cifar10_classifier import CIFAR10Classifier

SEED = 0


def train(
    root: Path,
    output: Path,
    epochs: int = 10,
    batch_size: int = 250,
    device: str = "cpu",
    bfloat16: bool = False,
) -> float:
    """Train on the training images, mirrored and shifted; write the weights.

    Args:
        root: Folder of the data set; see :class:`lightning_igm.data.CIFAR10DataModule`.
        output: File of the weights.
        epochs: Passes over the training images.
        batch_size: Images per batch.
        device: Where to train.
        bfloat16: Whether convolutions multiply bfloat16; weights stay in float32.

    Returns:
        Accuracy on the test images.
    """
    data = CIFAR10DataModule(root, download=False, batch_size=batch_size)
    data.setup()
    draw = torch.Generator().manual_seed(SEED)
    classifier = CIFAR10Classifier().to(device).train()
    classifier.to(memory_format=torch.channels_last)
    steps = epochs * (len(data.train_images) // batch_size)
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(data.train_images), (batch_size,), generator=draw)
        images = _augment(data.train_images[rows].to(device), draw)
        labels = data.train_labels[rows].to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(classifier(images)[1], labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.eval()
    accuracy = _accuracy(classifier, data.test_images, data.test_labels, device)
    print(f"accuracy on the test images: {accuracy:.2%}")
    classifier.cpu().to(memory_format=torch.contiguous_format)
    torch.save(classifier.state_dict(), output)
    return accuracy


def _augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror half of a batch, and shift all of it by up to 4 pixels."""
    mirrored = (torch.rand(len(images), 1, 1, 1, generator=draw) < 0.5).to(images.device)
    images = torch.where(mirrored, images.flip(3), images)
    top, left = torch.randint(0, 9, (2,), generator=draw).tolist()
    height, width = images.shape[2:]
    return F.pad(images, [4] * 4)[:, :, top : top + height, left : left + width]


@torch.no_grad()
def _accuracy(classifier: CIFAR10Classifier, images: Tensor, labels: Tensor, device: str) -> float:
    guesses = [classifier(batch.to(device))[1].argmax(1).cpu() for batch in images.split(1000)]
    return float((torch.cat(guesses) == labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(prog="train_cifar10_classifier", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--output", type=Path, default=Path("cifar10_classifier.pt"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--bfloat16", action="store_true", help="faster on hardware for it")
    given = parser.parse_args(arguments)
    if given.output.exists() or not given.output.parent.is_dir():
        parser.error(f"--output: {str(given.output)!r} must be a new file, in a folder that exists")
    torch.manual_seed(SEED)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    train(given.root, given.output, given.epochs, device=device, bfloat16=given.bfloat16)


if __name__ == "__main__":
    main()
