"""Makes the shipped weights of the digit classifier.

Run from a checkout of the repository: ``python -m lightning_igm.studies.train_digit_classifier``
for scikit-learn's digits, in two or three minutes on one core, and with ``--mnist data`` for MNIST,
in five to ten. The seed is fixed and one thread is used: a rerun on the same machine gives the same
weights.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from lightning_igm.data.color import colorize_float
from lightning_igm.data.mnist import load_mnist
from lightning_igm.metrics.digit_classifier import WEIGHTS, DigitClassifier

FOLDER = Path(__file__).parent
HELD_OUT_SHARE = 0.2
SEED = 0

Digits = tuple[Tensor, Tensor]
Augment = Callable[[Tensor, torch.Generator], Tensor]


def main(
    steps: int = 2000,
    batch_size: int = 128,
    output: Path = FOLDER / WEIGHTS["digits"],
) -> None:
    """Train on four fifths of scikit-learn's digits, freshly coloured in every batch.

    Args:
        steps: Batches to train on.
        batch_size: Digits per batch.
        output: File of the weights.
    """
    generator = torch.Generator().manual_seed(SEED)
    grey, labels = _digits()
    order = torch.randperm(len(grey), generator=generator)
    held_out, train = order.tensor_split([round(HELD_OUT_SHARE * len(order))])
    classifier = _train((grey[train], labels[train]), _augment, steps, batch_size, generator)
    for size, noise in ((32, 0.0), (32, 0.2), (16, 0.2)):
        images = colorize_float(_place(grey[held_out], size, size // 8), generator, noise)
        _report(f"coloured, {size}x{size}, noise {noise}", classifier, images, labels[held_out])
    _report("grey, 32x32", classifier, _place(grey[held_out], 32, 4), labels[held_out])
    torch.save(classifier.state_dict(), output)


def main_mnist(
    root: Path,
    steps: int = 4000,
    batch_size: int = 128,
    output: Path = FOLDER / WEIGHTS["mnist"],
) -> None:
    """Train on the 60,000 training digits of MNIST, half of the batches coloured.

    Args:
        root: Folder of ``MNIST/raw``.
        steps: Batches to train on.
        batch_size: Digits per batch.
        output: File of the weights.
    """
    generator = torch.Generator().manual_seed(SEED)
    train, test = load_mnist(root, 28)
    classifier = _train(train, _augment_mnist, steps, batch_size, generator)
    grey = test[0].float() / 255
    _report("grey, 28x28", classifier, grey, test[1])
    _report("grey, 32x32", classifier, F.pad(grey, [2] * 4), test[1])
    colored = colorize_float(F.pad(grey, [2] * 4), generator)
    _report("coloured, 32x32, noise 0.2", classifier, colored, test[1])
    torch.save(classifier.state_dict(), output)


def _train(
    digits: Digits, augment: Augment, steps: int, batch_size: int, generator: torch.Generator
) -> DigitClassifier:
    torch.manual_seed(SEED)
    grey, labels = digits
    classifier = DigitClassifier().train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        batch = torch.randint(len(grey), (batch_size,), generator=generator)
        _, logits = classifier(augment(grey[batch], generator))
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


def _digits() -> Digits:
    digits = load_digits()
    grey = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    return grey, torch.from_numpy(digits.target).long()


def _place(grey: Tensor, size: int, border: int, shift: tuple[int, int] = (0, 0)) -> Tensor:
    """Enlarge digits inside a black border and shift them."""
    inner = size - 2 * border
    images = F.interpolate(grey, (inner, inner), mode="bilinear")
    return F.pad(images, [border] * 4).roll(shift, (2, 3))


def _augment(grey: Tensor, generator: torch.Generator) -> Tensor:
    """Give a batch a size, border, shift and noise of its own; one batch in eight stays grey."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    size = draw(16, 32)
    border = draw(0, size // 6)
    shift = (draw(-border // 2, border // 2), draw(-border // 2, border // 2))
    images = _place(grey, size, border, shift)
    if draw(1, 8) == 1:
        return images.expand(-1, 3, -1, -1)
    noise = 0.2 * float(torch.rand((), generator=generator))
    return colorize_float(images, generator, noise)


def _augment_mnist(grey: Tensor, generator: torch.Generator) -> Tensor:
    """Scale and shift a batch a little; every second batch gets colours and noise."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    images = _place(grey.float() / 255, draw(27, 33), draw(0, 3), (draw(-2, 2), draw(-2, 2)))
    if draw(1, 2) == 1:
        return images.expand(-1, 3, -1, -1)
    noise = 0.2 * float(torch.rand((), generator=generator))
    return colorize_float(images, generator, noise)


@torch.no_grad()
def _report(what: str, classifier: DigitClassifier, images: Tensor, labels: Tensor) -> None:
    logits = torch.cat([classifier(batch)[1] for batch in images.split(1000)])
    accuracy = float((logits.argmax(1) == labels).double().mean())
    print(f"held-out accuracy, {what}: {accuracy:.2%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, metavar="ROOT", help="train on MNIST of this folder")
    parser.add_argument("--output", type=Path, help="file of the weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    options = {} if arguments.output is None else {"output": arguments.output}
    if arguments.mnist is None:
        main(**options)
    else:
        main_mnist(arguments.mnist, **options)
