"""The settings of a run and its learning rate."""

from dataclasses import dataclass

import pytest

from clipcap.data.errors import UsageError
from clipcap.data.settings import setting
from clipcap.train.mappers import MAPPERS, MapperConfig
from clipcap.train.settings import TrainSettings, lr_factor, option_parameters


def test_the_learning_rate_rises_then_follows_its_schedule() -> None:
    assert [lr_factor(step, 4, 12) for step in range(12)] == [
        0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125,
    ]  # fmt: skip
    assert [lr_factor(step, 0, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [lr_factor(step, 2, 6, "constant") for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    half_wave = [lr_factor(step, 1, 5, "cosine") for step in range(5)]
    assert half_wave == pytest.approx([1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert [lr_factor(step, 2, 2) for step in range(2)] == [0.5, 1.0]


def test_warmup_scales_with_the_data() -> None:
    assert TrainSettings().warmup_steps(141_690) == 7084  # COCO, 10 epochs of 40
    assert TrainSettings().warmup_steps(760) == 38  # 3,060 captions: 5,000 fixed steps would never end
    assert TrainSettings(warmup=500).warmup_steps(760) == 500
    assert TrainSettings(warmup=5000).warmup_steps(760) == 760
    assert TrainSettings(warmup=0).warmup_steps(760) == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tune", "last"), ("schedule", "steps"), ("subset", 0.0), ("label_smoothing", 1.0), ("weight_decay", -1.0)),
        *(("lr", 0.0), ("lr", float("nan")), ("lr", float("inf")), ("warmup", float("inf")), ("seed", -1)),
        *(("batch_size", 0), ("precision", "fp8"), ("mapper", "perceiver"), ("epochs", None)),
    ],
)
def test_a_value_that_is_not_allowed_is_an_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"`{name}`"):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


def test_a_knob_is_checked_by_its_mapper() -> None:
    with pytest.raises(UsageError, match=r"`mapper_dropout` .* not -0\.1"):
        TrainSettings(mapper="encoder", mapper_options={"dropout": -0.1})
    with pytest.raises(UsageError, match="`mapper` linear has no `layers`; it has tanh"):
        TrainSettings(mapper="linear", mapper_options={"layers": 3})


def test_flat_values_lead_to_the_same_settings() -> None:
    settings = TrainSettings(mapper="encoder", mapper_options={"dropout": 0.2, "layers": 3}, lr=1e-3, device="cpu")
    flat = settings.flat()
    assert (flat["mapper_dropout"], flat["layers"], flat["heads"], flat["dropout"]) == (0.2, 3, 16, None)
    assert "device" not in flat
    assert TrainSettings.from_flat(flat).flat() == flat
    assert settings.changed() == {"mapper": "encoder", "mapper_dropout": 0.2, "layers": 3, "lr": 1e-3, "device": "cpu"}


def test_knobs_of_other_mappers_in_an_early_run_are_ignored() -> None:
    early = {"mapper": "linear", "tanh": False, "clip_length": 10, "layers": 8, "heads": 16, "mapper_dropout": 0.0}
    assert TrainSettings.from_flat(early) == TrainSettings(mapper="linear", mapper_options={"tanh": False})
    with pytest.raises(TypeError):
        TrainSettings.from_flat({"colour": "red"})


def test_knobs_of_another_mapper_are_refused_only_if_they_are_explicit() -> None:
    from clipcap.train.start import new_settings

    assert new_settings({"mapper": "mlp", "layers": 3}, explicit={"mapper": "mlp"}) == TrainSettings()
    with pytest.raises(UsageError, match="`mapper` mlp has no `layers`"):
        new_settings({"mapper": "mlp", "layers": 3})


def test_knobs_of_several_mappers_must_be_declared_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Other(MapperConfig):
        layers: int = setting(2, "Layers of something else.", minimum=1)

    shared = next(parameter for parameter in option_parameters() if parameter.name == "layers")
    assert shared.setting.help == "Layers of the mapper (transformer, encoder)."
    monkeypatch.setitem(MAPPERS, "other", Other)
    with pytest.raises(AssertionError, match="layers"):
        option_parameters()


def test_every_mapper_becomes_options_with_its_knobs() -> None:
    assert [p.name for p in option_parameters()][:7] == [
        "mapper", "prefix_length", "clip_length", "layers", "heads", "mapper_dropout", "tanh",
    ]  # fmt: skip
