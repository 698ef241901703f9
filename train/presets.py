"""Stage 2's half of the recipes. data/command/presets.py names them all, with their sources."""

from clipcap.train.settings import TrainSettings

PRESETS: dict[str, TrainSettings] = {
    "clipcap-mlp": TrainSettings(
        mapper="mlp", prefix_length=10, lm="gpt2", tune="all", epochs=10, batch_size=40, lr=2e-5, warmup=0.05
    ),
    "clipcap-transformer": TrainSettings(
        mapper="transformer", prefix_length=10, mapper_options={"clip_length": 10, "layers": 8},
        lm="gpt2", tune="none", epochs=10, batch_size=40, lr=2e-5, warmup=0.05,
    ),
    "clipcap-transformer-40": TrainSettings(
        mapper="transformer", prefix_length=40, mapper_options={"clip_length": 40, "layers": 8},
        lm="gpt2", tune="none", epochs=10, batch_size=40, lr=2e-5, warmup=0.05,
    ),
    "clipxgpt-small": TrainSettings(
        mapper="encoder", prefix_length=4, mapper_options={"layers": 6, "heads": 16, "dropout": 0.1},
        lm="gpt2", tune="first+last", epochs=150, batch_size=64, lr=9e-6, warmup=0.33,
    ),
    "clipxgpt-large": TrainSettings(
        mapper="encoder", prefix_length=4, mapper_options={"layers": 5, "heads": 16, "dropout": 0.08},
        lm="gpt2-medium", tune="first+last", epochs=120, batch_size=32, lr=2.5e-5, warmup=0.3,
    ),
    "clipxgpt-g14-xl": TrainSettings(
        mapper="encoder", prefix_length=4, mapper_options={"layers": 5, "heads": 16, "dropout": 0.08},
        lm="gpt2-xl", tune="first+last", epochs=300, batch_size=16, lr=2.5e-5, warmup=0.3,
    ),
    "photographs": TrainSettings(
        mapper="transformer", prefix_length=8, mapper_options={"layers": 2}, lm="new:6x384", dropout=0.3,
        optimizer="muon", epochs=5, batch_size=80, lr=2e-3, ema=0.998, label_smoothing=0.1, metric="cider",
    ),
    "visual-tokens": TrainSettings(
        mapper="linear", prefix_length=5, mapper_options={"tanh": True},
        lm="gpt2", tune="from:11", epochs=10, batch_size=64, lr=1e-4, warmup=0.0, schedule="constant", subset=0.4,
    ),
}  # fmt: skip
