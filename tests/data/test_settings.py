"""Settings classes: each parameter is described once, and checked when an object is built."""

from dataclasses import dataclass

import pytest

from clipcap.data.errors import UsageError
from clipcap.data.settings import Settings, changed_values, parameters_of, setting, stored_values


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """Settings of one kind each."""

    epochs: int = setting(10, "Passes over all captions.", group="Training", minimum=1)
    rate: float = setting(0.5, "Rate.", above=0, below=1)
    order: str = setting("image", "Order.", choices=("image", "caption"))
    tune: str = setting("all", "all or last:N.", pattern=r"all|last:\d+")
    limit: int | None = setting(None, "Limit. Default: none.", minimum=1)
    device: str = setting("auto", "Device.", stored=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, not 0"),
        ({"epochs": "3"}, "`epochs` must be at least 1, not 3"),
        ({"rate": 1.0}, "`rate` must be above 0 and below 1, not 1.0"),
        ({"rate": float("nan")}, "`rate` must be above 0 and below 1, not nan"),
        ({"order": "random"}, "`order` random is not known; use image, caption"),
        ({"tune": "last"}, "`tune` 'last' is not known; all or last:N."),
        ({"tune": None}, "`tune` None is not known; all or last:N."),
        ({"limit": 0}, "`limit` must be at least 1, not 0"),
    ],
)
def test_a_value_outside_its_bounds_is_an_error_that_names_the_parameter(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError) as found:
        Example(**values)  # type: ignore[arg-type]
    assert str(found.value) == message


def test_none_is_allowed_where_it_is_the_default() -> None:
    assert Example(limit=None).limit is None


def test_parameters_carry_type_default_and_description() -> None:
    first, *_, limit, device = parameters_of(Example)
    assert (first.name, first.type, first.default, first.setting.group) == ("epochs", int, 10, "Training")
    assert (limit.type, device.setting.stored) == (int | None, False)


def test_stored_and_changed_values() -> None:
    example = Example(epochs=3, device="cpu")
    assert stored_values(example) == {"epochs": 3, "rate": 0.5, "order": "image", "tune": "all", "limit": None}
    assert changed_values(example) == {"epochs": 3, "device": "cpu"}
