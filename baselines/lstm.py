"""Santoro's recurrent baseline: an LSTM that reads each input with the label of the one before."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.api import Task, TrainedMethod, method, option
from mann.controllers import LSTMState
from mann.encoders import Encoder, EncoderName, make_encoder, unsuited_encoder
from mann.learner import SequenceLearner, refuse_below_one


class LSTMLearner(SequenceLearner):
    """Encoder, LSTM and a linear output; what it remembers of an episode is in its state."""

    def __init__(self, task: Task, encoder: Encoder, size: int) -> None:
        super().__init__(task)
        self.encoder = encoder
        self.lstm = nn.LSTM(encoder.size + task.y_size, size, batch_first=True)
        self.output = nn.Linear(size, task.n_out)

    def initial_state(self, batch: int, like: Tensor) -> LSTMState:
        """Zeros, [batch, size] each."""
        zeros = like.new_zeros(batch, self.lstm.hidden_size)
        return LSTMState(zeros, zeros)

    def run(self, x: Tensor, label: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """See `SequenceLearner.run`."""
        inputs = torch.cat((self.encoder(x), label), -1)
        hidden, (h, c) = self.lstm(inputs, (state.hidden.unsqueeze(0), state.cell.unsqueeze(0)))
        return self.output(hidden), LSTMState(h.squeeze(0), c.squeeze(0))


@method("lstm", source="Santoro et al. 2016, arXiv:1605.06065")
class LSTM(TrainedMethod):
    """An LSTM over (x_t, y_{t-1}), the baseline of the memory-augmented network."""

    size: int = option(200, "units of the LSTM")
    encoder: EncoderName = option("flat", "what the LSTM sees of an input")
    encoder_size: int = option(64, "width of the mlp, channels of the conv net, units of the rnn; flat has none")

    def check(self) -> None:
        """Refuse a recipe that cannot train, and networks without units."""
        super().check()
        refuse_below_one(self, "size", "encoder_size")

    def build(self, task: Task) -> LSTMLearner:
        """A fresh learner; see `Method.build`."""
        return LSTMLearner(task, make_encoder(self.encoder, task.x_shape, self.encoder_size), self.size)

    def unsuited(self, task: Task) -> str | None:
        """Some encoders need inputs of a certain shape."""
        return unsuited_encoder(self.encoder, task.x_shape)
