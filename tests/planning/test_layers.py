"""What few of a generator's alike layers tell of all of them is what all of them tell."""

import pytest
from torch import nn

from components.generator.family import VelocityModel
from components.planning import layers
from components.planning.costs import architecture, costs_of, models
from components.planning.guidance import latent_sizes
from tests.planning.measured import profile

LAYERS = layers.LONG + 1


class Network(nn.Module):
    """Two long runs in one list, with an unlike layer between them, and a list that is short."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([*alike(9), nn.Linear(4, 4, bias=False), *alike(8)])
        self.last = nn.ModuleList(alike(3))


def alike(number: int) -> list[nn.Module]:
    return [nn.Linear(4, 4) for _ in range(number)]


def test_each_run_is_shortened_on_its_own_and_put_back():
    network = Network()
    both = nn.ModuleList([*network.blocks, *network.last])
    runs = layers.runs_of(network, both)
    assert [[len(run) for run in found] for found in runs.values()] == [[9, 1, 8], [3]]
    with layers.shortened(network, runs):
        assert [len(network.blocks), len(network.last)] == [7, 3]
        assert network.blocks[3].bias is None
    assert [len(network.blocks), len(network.last)] == [18, 3] and network.blocks[9].bias is None
    counted = layers.summed(network, runs, lambda: sum(p.numel() for p in network.parameters()))
    assert counted == sum(p.numel() for p in network.parameters())


def test_a_setting_that_differs_parts_a_run():
    network = Network()
    network.blocks[4].window = 2
    [run, *_], _ = layers.runs_of(network, nn.ModuleList([*network.blocks, *network.last])).values()
    assert len(run) == 4


@pytest.mark.parametrize("name", ["wan2.1-1.3b", "hunyuanvideo", "mochi"])
def test_figures_of_a_few_layers_are_those_of_all(name, monkeypatch):
    """One run of layers, two, and one that ends in an unlike layer."""
    params = profile(name)
    params = params.model_copy(update={"latent_reward": params.latent_reward.model_copy(update={"blocks": LAYERS})})
    family, configs = architecture(params)
    configs["transformer"] |= {key: LAYERS for key in ("num_layers", "num_single_layers") if key in configs["transformer"]}

    def figures() -> list[object]:
        parts = models(family, configs, params.base_generator.dtype)
        clip, text = family.example(configs, parts, (31 if name == "mochi" else 33, 128, 128))
        model = VelocityModel(family, parts["transformer"])
        latent = [latent_sizes(params, model, clip, text)] if name.startswith("wan") else []
        return [*latent, costs_of(params, model, clip, text)]

    few = figures()
    monkeypatch.setattr(layers, "LONG", LAYERS)
    assert figures() == few
