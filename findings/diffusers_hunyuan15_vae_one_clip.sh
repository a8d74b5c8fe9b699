#!/usr/bin/env bash
# diffusers 0.42.1: AutoencoderKLHunyuanVideo15 encodes and decodes one clip at a time.
#
# Seen: encode of [1, 3, 5, 32, 32] works; of [2, 3, 5, 32, 32] it is a RuntimeError about a broadcast shape, from the mask of
# the mid block's attention, which has no place for the heads. With enable_slicing(), which takes the batch clip by clip, two
# clips work. HunyuanVideo15Pipeline decodes a whole batch, so two prompts need vae.enable_slicing() first.
#
# Why it matters: a pipeline that draws or encodes batches works with every other video VAE of the library.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 transformers==5.23.0
cat > "$work/see.py" <<'PY'
import torch
from diffusers import AutoencoderKLHunyuanVideo15
torch.manual_seed(0)
vae = AutoencoderKLHunyuanVideo15(
    latent_channels=4, block_out_channels=(8, 8, 16, 16, 16), layers_per_block=1, spatial_compression_ratio=16, temporal_compression_ratio=4,
).eval()
one, two = torch.zeros(1, 3, 5, 32, 32), torch.zeros(2, 3, 5, 32, 32)

def tried(clip):
    try:
        with torch.no_grad():
            return tuple(vae.encode(clip).latent_dist.mode().shape)
    except RuntimeError as error:
        return str(error).splitlines()[0]

alone, pair = tried(one), tried(two)
vae.enable_slicing()
sliced = tried(two)
print("one clip:", alone); print("two clips:", pair); print("two clips, enable_slicing:", sliced)
assert isinstance(alone, tuple) and isinstance(pair, str) and isinstance(sliced, tuple)
PY
"$work/venv/bin/python" "$work/see.py"
