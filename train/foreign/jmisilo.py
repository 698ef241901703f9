"""Checkpoints of CLIPxGPT (jmisilo/clip-gpt-captioning, and its ViT-g-14 + GPT-2 XL fork).

Released files are a bare state dict; files of its training hold it as `model_state_dict`. `mp.*` is the mapper,
`td.model.*` is GPT-2, and `ie.*` is the frozen CLIP, which is left out. Embeddings are CLIP's before its projection.

Letters for shapes: B images, T tokens, K positions of the prefix, D width, d numbers in an embedding, V vocabulary.
"""

import torch

from clipcap.train.foreign.base import (
    ForeignCheckpoint,
    ForeignModel,
    State,
    System,
    language_model,
    mapper_tensors,
    quotient,
    sizes,
)
from clipcap.train.mappers import mapper_config

HEADS = 16
_ENCODERS = {1024: ("ViT-L-14", "openai"), 1408: ("ViT-g-14", "laion2b_s12b_b42k")}


class JmisiloModel(ForeignModel):
    """GPT-2 after a beginning-of-text token and the prefix, with position embeddings added twice, as CLIPxGPT does."""

    def next_logits(self, start: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Compute what step T of CLIPxGPT's decoding loop computes: logits at all 1 + K + T positions.

        The first step of that loop adds the position embeddings to the start in place, so later steps add them again.

        Args:
            start: float (B, 1 + K, D), what the method `start` returns.
            tokens: int64 (B, T), token ids so far.

        Returns:
            float (B, 1 + K + T, V).
        """
        table = self.gpt.transformer.wpe.weight
        inputs = start
        if tokens.shape[1]:
            again = start + table[: start.shape[1]]
            inputs = torch.cat([again, self.gpt.transformer.wte(tokens).to(start.dtype)], dim=1)
        logits: torch.Tensor = self.gpt(inputs_embeds=inputs + table[: inputs.shape[1]]).logits
        return logits

    def start(self, embedding: torch.Tensor) -> torch.Tensor:
        """Compute what a text starts with, a beginning-of-text token and the prefix.

        Args:
            embedding: float (B, d).

        Returns:
            float (B, 1 + K, D).
        """
        prefix: torch.Tensor = self.clip_project(embedding)
        begin = self.gpt.transformer.wte.weight[self.end].to(prefix.dtype)
        return torch.cat([begin.expand(len(prefix), 1, -1), prefix], dim=1)

    def target_logits(
        self, embedding: torch.Tensor, tokens: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the logits with which CLIPxGPT's loop would choose each token, given the tokens before it.

        Arguments and results are those of `ClipCapModel.target_logits`.
        """
        start = self.start(embedding)
        first = self.next_logits(start, tokens[:, :0])[:, -1:]
        later = self.next_logits(start, tokens[:, :-1])[:, start.shape[1] :] if tokens.shape[1] > 1 else first[:, :0]
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return torch.cat([first, later], dim=1)[real], tokens[real]


class Jmisilo(System):
    """`mp.transformer_encoder.*`, `mp.mapper.*`, in the fork `mp.linear.*`; `td.model.*`."""

    name = "jmisilo"

    def recognises(self, state: State) -> bool:
        return any(name.startswith("mp.") for name in state)

    def convert(self, state: State, heads: int | None) -> ForeignCheckpoint:
        config, lm = language_model(state, "td.model.", heads)
        mapper = mapper_tensors(state, "mp.")
        width = config["n_embd"]
        embedding_width = sizes(mapper, "linear.weight")[1] if "clip_project.linear.weight" in mapper else width
        layers = {name.split(".")[3] for name in mapper if name.startswith("clip_project.transformer_encoder.layers.")}
        described = mapper_config(
            kind="encoder",
            embedding_width=embedding_width,
            lm_width=width,
            prefix_length=quotient(sizes(mapper, "mapper.weight")[0], width, "last layer"),
            layers=len(layers),
            heads=HEADS,
        )
        encoder, pretrained = _ENCODERS.get(embedding_width, ("ViT-B-32", "openai"))
        return ForeignCheckpoint(
            system=self.name,
            mapper=described,
            lm_config=config,
            tensors={**mapper, **lm},
            encoder=encoder,
            pretrained=pretrained,
            features="pooled",
            model_class=JmisiloModel,
        )
