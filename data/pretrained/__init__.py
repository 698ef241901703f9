"""Pretrained parts that both stages load: tokenizers, bundled models, the model hub, devices and precisions."""
