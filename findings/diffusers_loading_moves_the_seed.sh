#!/usr/bin/env bash
# diffusers 0.42.1: ModelMixin.from_pretrained draws from torch's global generator, although every weight is then read from
# the file. transformers 5.23.0 draws nothing for its models. So torch.manual_seed before loading is not enough: a head that
# is initialised after a diffusers model gets other weights when that model has one block more, or is loaded twice. Seed
# after loading, or draw from a torch.Generator.
#
# Seen: 0.49625658988952637 without loading and after transformers' model; another number after diffusers' model, and a third
# one when that model has two blocks.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import torch
from diffusers import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

SMALL = dict(num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32)
for blocks in (1, 2):
    WanTransformer3DModel(**SMALL, num_layers=blocks).save_pretrained(f"wan{blocks}")
config = UMT5Config(vocab_size=32, d_model=16, d_kv=8, num_heads=2, d_ff=32, num_layers=1)
UMT5EncoderModel(config).save_pretrained("umt5")


def number_after(load):
    torch.manual_seed(0)
    load()
    return torch.rand(1).item()


found = {
    "nothing": number_after(lambda: None),
    "transformers": number_after(lambda: UMT5EncoderModel.from_pretrained("umt5")),
    "diffusers, 1 block": number_after(lambda: WanTransformer3DModel.from_pretrained("wan1")),
    "diffusers, 2 blocks": number_after(lambda: WanTransformer3DModel.from_pretrained("wan2")),
}
for what, number in found.items():
    print(f"first number after loading {what}: {number}")
assert found["transformers"] == found["nothing"], "transformers draws too"
assert len(set(found.values())) == 3, "diffusers draws no more, or the same for any size"
PYTHON
