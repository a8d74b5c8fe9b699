import numpy as np

from components.video.encode import write_video


def test_the_same_frames_give_the_same_bytes_whatever_lay_in_memory_before(tmp_path):
    rng = np.random.default_rng(1)
    frames = np.full((9, 32, 32, 3), 110.0)
    for index, frame in enumerate(frames):
        frame[4:13, 3 + index : 12 + index] = (220, 50, 40)
    frames = np.clip(frames + rng.normal(0, 3, frames.shape), 0, 255).astype(np.uint8)
    versions = set()
    for _ in range(60):
        # Leaves memory of any size and content behind for the encoder to be given.
        del_me = np.full(rng.integers(100, 200_000), rng.integers(0, 255), np.uint8)
        del del_me
        write_video(tmp_path / "clip.mp4", frames, fps=8)
        versions.add((tmp_path / "clip.mp4").read_bytes())
    assert len(versions) == 1
