"""The captioning model: mapper and GPT-2, what of it trains, and the checkpoint that rebuilds it."""
