"""Files in the layout and format of MNIST's, with other digits and fewer of them."""

import numpy as np


def write_mnist(root, images):
    """Writes them with random labels; returns the shapes by file name.

    ``images`` are uint8 ``(N, 28, 28)``, by "train" and "t10k".
    """
    rng = np.random.default_rng(1)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    shapes = {}
    for split, digits in images.items():
        labels = rng.integers(10, size=len(digits), dtype=np.uint8)
        for name, values in (("images-idx3", digits), ("labels-idx1", labels)):
            shapes[f"{split}-{name}-ubyte"] = values.shape
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / f"{split}-{name}-ubyte").write_bytes(header + values.tobytes())
    return shapes


def random_digits(train, test):
    rng = np.random.default_rng(0)
    counts = {"train": train, "t10k": test}
    return {k: rng.integers(256, size=(n, 28, 28), dtype=np.uint8) for k, n in counts.items()}
