"""What a search finds out about a model before it begins."""

import numpy as np
import torch
from torch import Tensor, nn

from pared.evaluators.export import export
from pared.hardware_profiles.load import load
from pared.spaces.space import build
from pared.spaces.survey import survey


class Padded(nn.Module):
    """torch's own encoder over tokens, of which 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(32, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0).mean(1))


def test_an_encoder_with_padded_inputs_is_exported_and_all_its_parts_are_found() -> None:
    torch.manual_seed(0)
    model = Padded().eval()
    tokens = np.random.default_rng(0).integers(1, 20, (4, 12)).astype(np.int64)
    tokens[:, 9:] = 0
    scope = survey(model, (tokens,), export(model, (tokens,)), (load("host-cpu"),))
    assert scope.blocks == scope.taps == ("encoder.layers.0", "encoder.layers.1")
    assert len(scope.heads) == 2 and len(scope.factors) == 4 and scope.stages
    criterion = build(scope, {}).knobs["prune.criterion"]
    assert "l2" in criterion and "bn_scale" not in criterion  # there is no batch norm to read it from
