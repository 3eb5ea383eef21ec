"""Makes the shipped weights of the digit classifier, in two or three minutes on one core.

Run from a checkout of the repository: ``python -m lightning_igm.metrics.train_digit_classifier``.
The seed is fixed and one thread is used: a rerun on the same machine gives the same weights.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from datamodules.color import colorize_float
from lightning_igm.metrics.digit_classifier import DigitClassifier

WEIGHTS = Path(__file__).with_name("weights") / "digit_classifier.pt"
HELD_OUT_SHARE = 0.2
SEED = 0


def main(steps: int = 2000, batch_size: int = 128, output: Path = WEIGHTS) -> None:
    """Train on four fifths of scikit-learn's digits, freshly coloured in every batch.

    Args:
        steps: Batches to train on.
        batch_size: Digits per batch.
        output: File of the weights.
    """
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    grey, labels = _digits()
    order = torch.randperm(len(grey), generator=generator)
    held_out, train = order.tensor_split([round(HELD_OUT_SHARE * len(order))])

    classifier = DigitClassifier().train()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(steps):
        batch = train[torch.randint(len(train), (batch_size,), generator=generator)]
        _, logits = classifier(_augment(grey[batch], generator))
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    classifier.eval()
    for size, noise in ((32, 0.0), (32, 0.2), (16, 0.2)):
        images = colorize_float(_place(grey[held_out], size, size // 8), generator, noise)
        accuracy = _accuracy(classifier, images, labels[held_out])
        print(f"held-out accuracy, coloured, {size}x{size}, noise {noise}: {accuracy:.2%}")
    accuracy = _accuracy(classifier, _place(grey[held_out], 32, 4), labels[held_out])
    print(f"held-out accuracy, grey, 32x32: {accuracy:.2%}")
    torch.save(classifier.state_dict(), output)


def _digits() -> tuple[Tensor, Tensor]:
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


@torch.no_grad()
def _accuracy(classifier: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    _, logits = classifier(images)
    return float((logits.argmax(1) == labels).double().mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="file of the weights")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    main(output=arguments.output)
