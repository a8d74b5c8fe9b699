"""Our attention of the vision tower against that of transformers."""

import copy

import pytest
import torch
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from components.reward.backbones.qwen import attend_in_runs, frame_runs, in_frames

CONFIG = Qwen2VLVisionConfig(
    depth=2, embed_dim=32, hidden_size=48, num_heads=2, mlp_ratio=2, patch_size=4, temporal_patch_size=2
)
GRIDS = {
    "one clip": [[3, 4, 4]],
    "like clips": [[2, 4, 4], [3, 4, 4], [1, 4, 4]],
    "sides changed": [[2, 2, 8], [2, 8, 2]],
    "sizes mixed": [[2, 4, 4], [1, 2, 6], [3, 6, 2], [2, 4, 4]],
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_outputs_and_gradients_are_those_of_transformers(grid, checkpointing):
    torch.manual_seed(0)
    theirs = Qwen2VisionTransformerPretrainedModel(CONFIG).train()
    ours = copy.deepcopy(theirs)
    attend_in_runs(ours)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    if checkpointing:
        ours.gradient_checkpointing_enable()
    grid = torch.tensor(grid)
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 4 * 4)
    found = []
    for model, more in ((theirs, {}), (ours, {"frames": in_frames(grid)})):
        out = model(pixels, grid_thw=grid, **more).pooler_output
        out.square().sum().backward()
        found.append([out.detach(), *(weight.grad for weight in model.parameters())])
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_runs_join_clips_of_one_frame_size():
    assert frame_runs(torch.tensor(GRIDS["like clips"])) == [(6, 16)]
    assert frame_runs(torch.tensor(GRIDS["sizes mixed"])) == [(2, 16), (4, 12), (2, 16)]
