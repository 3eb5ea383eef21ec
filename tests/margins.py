"""How near numeric assertions come to their limits: ``pytest --margins FILE``.

FILE gets a JSON line for every test and place in the code: the smallest margin that was seen there,
1 at the limit and 10 where the limit is ten times what was found. ``python tests/margins.py FILE
[FILE ...] [--below 10]`` lists the nearest of several runs, one line for each place.
"""

import functools
import json
import math
import re
import sys
import warnings
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

TESTS = Path(__file__).parent
ApproxScalar = type(pytest.approx(1.0))  # Sequences, mappings and arrays use it too.
_NUMBER = r"(?:tensor\(|np\.float\d+\()?(-?\d+\.?\d*(?:e[-+]?\d+)?)(?:,[^)<>]*)?\)?"
_COMPARISON = re.compile(rf"(?<![\w.+-])(?={_NUMBER} (<=?|>=?) {_NUMBER})")


class Margins:
    """Collects the margins of the test that runs."""

    def __init__(self, path):
        self.path = Path(path)
        self.smallest = {}

    def note(self, place, found, limit):
        """Keep the smallest margin of a place."""
        if found == 0 or limit <= 0 or not math.isfinite(limit):
            return
        margin = limit / found
        if margin < self.smallest.get(place, (math.inf,))[0]:
            self.smallest[place] = margin, found, limit

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self.smallest = {}
        with pytest.MonkeyPatch.context() as patch:
            self._watch(patch)
            outcome = yield
        with self.path.open("a") as file:
            for place, (margin, found, limit) in self.smallest.items():
                row = {"margin": margin, "place": place, "found": found, "limit": limit}
                file.write(json.dumps(row | {"test": item.nodeid}) + "\n")
        return outcome

    def pytest_assertion_pass(self, item, lineno, orig, expl):
        place = f"{Path(item.path).relative_to(TESTS.parent)}:{lineno}"
        for left, sign, right in _COMPARISON.findall(expl.splitlines()[0]):
            small, large = (left, right) if "<" in sign else (right, left)
            if float(small) > 0:
                self.note(place, float(small), float(large))

    def _watch(self, patch):
        """Look on at every comparison with a tolerance."""

        def closeness(actual, expected, rtol, atol):
            with warnings.catch_warnings(), suppress(TypeError, ValueError):  # No numbers.
                warnings.simplefilter("ignore")
                a, e = (np.atleast_1d(_plain(x)).astype(complex) for x in (actual, expected))
                off, allowed = np.abs(a - e), atol + rtol * np.abs(e)
                counts = np.isfinite(off) & (off > 0) & (allowed > 0)
                if counts.any():
                    worst = (off / np.where(counts, allowed, 1))[counts].argmax()
                    self.note(_place(), float(off[counts][worst]), float(allowed[counts][worst]))

        def watched(original, rtol, atol):
            @functools.wraps(original)
            def call(actual, expected, *args, **kwargs):
                names = dict(zip(("rtol", "atol"), args, strict=False)) | kwargs
                tolerances = names.get("rtol", rtol), names.get("atol", atol)
                if None in tolerances:  # As torch.testing.assert_close has it.
                    double = getattr(expected, "dtype", torch.float64) == torch.float64
                    tolerances = (1e-7, 1e-7) if double else (1.3e-6, 1e-5)
                closeness_of(actual, expected, *tolerances)
                return original(actual, expected, *args, **kwargs)

            return call

        def closeness_of(actual, expected, rtol, atol):
            if isinstance(expected, dict):
                for key in expected.keys() & actual.keys():
                    closeness_of(actual[key], expected[key], rtol, atol)
            elif isinstance(expected, list | tuple) and any(map(torch.is_tensor, expected)):
                for a, e in zip(actual, expected, strict=False):
                    closeness_of(a, e, rtol, atol)
            else:
                closeness(actual, expected, rtol, atol)

        equal = ApproxScalar.__eq__

        def approx_equal(self_, actual):
            same = equal(self_, actual)
            number = isinstance(actual, int | float | np.number | torch.Tensor)
            if same and number and not isinstance(actual, bool):
                self.note(
                    _place(), abs(float(actual) - float(self_.expected)), float(self_.tolerance)
                )
            return same

        original = torch.testing.assert_close
        patch.setattr(torch.testing, "assert_close", watched(original, None, None))
        patch.setattr(np.testing, "assert_allclose", watched(np.testing.assert_allclose, 1e-7, 0))
        patch.setattr(torch, "allclose", watched(torch.allclose, 1e-5, 1e-8))
        patch.setattr(np, "allclose", watched(np.allclose, 1e-5, 1e-8))
        patch.setattr(ApproxScalar, "__eq__", approx_equal)
        for module in [sys.modules[name] for name in sys.modules if name.startswith("test_")]:
            if vars(module).get("assert_close") is original:
                patch.setattr(module, "assert_close", watched(original, None, None))


def _plain(x):
    return x.detach().cpu().to(torch.float64).numpy() if torch.is_tensor(x) else x


def _place():
    """The line of the tests that is being run."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(TESTS) and path != Path(__file__):
            return f"{path.relative_to(TESTS.parent)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def main(arguments):
    """Print the assertions that are near their limits in one run or vary much between several."""
    below = 10.0
    if "--below" in arguments:
        at = arguments.index("--below")
        below = float(arguments[at + 1])
        del arguments[at : at + 2]
    seen = defaultdict(list)
    for path in arguments:
        for line in Path(path).read_text().splitlines():
            row = json.loads(line)
            seen[row["place"], row["test"]].append((row["margin"], row["found"], row["limit"]))
    places = {}
    for (place, test), rows in seen.items():
        slacks = [limit - found for _, found, limit in rows]
        spread = max(slacks) - min(slacks)
        # A printed number is off by its rounding on every machine: what counts is what varies.
        varies = min(slacks) / spread if spread > 0 and len(arguments) > 1 else math.inf
        margin, found, limit = min(rows, key=lambda row: max(row[0], 1 / row[0]))
        margin = max(margin, 1 / margin)  # Below 1 of what is to differ.
        near = margin if len(arguments) == 1 else max(margin, varies)
        if near < min(below, places.get(place, (math.inf,))[0]):
            places[place] = near, found, limit, test
    for place, (near, found, limit, test) in sorted(places.items(), key=lambda item: item[1]):
        print(f"{near:8.3g}  {found:10.4g} of {limit:10.4g}  {place}  {test}")


if __name__ == "__main__":
    main(sys.argv[1:])
