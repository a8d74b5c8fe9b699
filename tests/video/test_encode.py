import ctypes

import numpy as np
import pytest

from components.video.encode import write_video

M_PERTURB = -6  # glibc: fill memory with a byte when it is handed out, another when it is given back


@pytest.fixture
def dirty_memory():
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        pytest.skip("the C library cannot fill memory (mallopt is glibc's)")
    yield lambda byte: libc.mallopt(M_PERTURB, byte)
    libc.mallopt(M_PERTURB, 0)


@pytest.mark.parametrize("noise", [0, 3, 40])
def test_the_same_frames_give_the_same_bytes_whatever_lay_in_memory(tmp_path, dirty_memory, noise):
    frames = np.full((9, 32, 32, 3), 110.0)
    for index, frame in enumerate(frames):
        frame[4:13, 3 + index : 12 + index] = (220, 50, 40)
    frames = frames + np.random.default_rng(1).normal(0, noise, frames.shape)
    versions = set()
    for byte in (0, 1, 0x55, 0xAA, 0xFF):
        dirty_memory(byte)
        write_video(tmp_path / "clip.mp4", np.clip(frames, 0, 255).astype(np.uint8), fps=8)
        versions.add((tmp_path / "clip.mp4").read_bytes())
    assert len(versions) == 1
