"""An average of a model's weights over the steps of its training: an exponential moving average, EMA.

Weights that still move at a high rate jump around the place that they are drawn to; their average is nearer to it
(Polyak and Juditsky 1992). In the first steps the average follows the weights more quickly than later, as in
`tf.train.ExponentialMovingAverage` with `num_updates`: it would hold on to the first, random weights otherwise.
"""

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clipcap.train.model.captioning import ClipCapModel, copy_model


class Average:
    """The average of the weights of one model.

    Args:
        model: the model that trains, on its device.
        decay: share of the average that a step keeps, less than 1.

    Attributes:
        model: a copy of the model with the averaged weights, in evaluation mode. Weights that do not train are shared.
    """

    def __init__(self, model: ClipCapModel, decay: float) -> None:
        self.decay = decay
        self.model = copy_model(model).eval()
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        trained = [(average, weight) for average, weight in pairs if weight.requires_grad]
        self._averages, self._weights = [a for a, _ in trained], [w for _, w in trained]

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take the weights after a step into the average; on a GPU without a wait.

        Args:
            number: the step's number, from 0.
        """
        decay = min(self.decay, (1 + number) / (10 + number))
        get_ema_multi_avg_fn(decay)(self._averages, self._weights, number)
