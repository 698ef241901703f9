"""The scale of a shard is the least power of two with which float16 holds its embeddings, and changes no digit."""

from typing import Any

import numpy as np
import pytest

from clipcap.data.cache.scale import is_scale, magnitudes, rescaled, scale_of, storable, to_float16


@pytest.mark.parametrize(
    ("largest", "scale", "value"),
    [
        (0, 1, 0),
        (-65519, 1, -65504),  # the largest number of float16 is the nearest
        (65520, 2, 65536),
        (-131039, 2, -131008),
        (131040, 4, 131072),
        (1e6, 16, 999936),
        (4.2e9, 2.0**16, float(np.float16(4.2e9 / 2.0**16)) * 2.0**16),
    ],
)
def test_the_scale_is_the_least_that_float16_needs(largest: float, scale: float, value: float) -> None:
    rows = np.array([[1, largest], [0, 0]], dtype=np.float32)
    assert scale_of(magnitudes(rows)) == scale
    assert is_scale(scale)
    assert to_float16(rows, scale)[0, 1].astype(np.float64) * scale == value


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 2), (4, 1, 2)])
def test_embeddings_that_are_not_finite_cannot_be_stored(shape: tuple[int, ...], dtype: Any) -> None:
    rows = np.array([[1, np.nan], [-np.inf, 2], [-7, 3], [np.inf, 0]], dtype=dtype).reshape(shape)
    magnitude = magnitudes(rows)
    np.testing.assert_array_equal(magnitude, [np.nan, np.inf, 7, np.inf])
    assert storable(magnitude).tolist() == [False, False, True, False]
    assert not storable(magnitudes(np.array([[4.3e9], [1e39]]))).any()


def test_another_scale_moves_the_exponents_alone() -> None:
    stored = np.array([[1.5, -65504, 2.0**-14]], dtype=np.float16)
    assert rescaled(stored, 4, 4) is stored
    assert rescaled(stored, 4, 32).tolist() == [[0.1875, -8188, 2.0**-17]]
    assert rescaled(stored, 1, 2.0**30).tolist() == [[0, -(2.0**-14), 0]]  # float16 has fewer digits there
