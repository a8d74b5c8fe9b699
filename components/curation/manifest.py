"""The two tables of curation, a row a clip: data/measures.parquet by stage measure, data/clips.parquet by stage curate."""

import pyarrow as pa

# What stage measure finds in the clip alone. A clip that cannot be read to its end has a `broken` reason and no measures
# of frames; what its container says is kept as far as it could be read.
MEASURES_SCHEMA = pa.schema(
    [
        pa.field("clip", pa.string(), nullable=False),  # path relative to data/source/videos
        pa.field("broken", pa.string()),  # why the clip cannot be read; null where it can
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the file
        pa.field("pixels", pa.string()),  # digest of the decoded frames (XXH3, 128 bits): equal after a lossless remux
        # container
        pa.field("container", pa.string()),
        pa.field("codec", pa.string()),
        pa.field("pixel_format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("rotation", pa.int32()),  # degrees, as the file asks players to turn it; such a clip is broken
        pa.field("fps", pa.float64()),  # average
        pa.field("rate_variation", pa.float64()),  # (longest - shortest) / mean gap between frames; 0 is a constant rate
        pa.field("frames", pa.int32()),
        pa.field("duration", pa.float64()),  # seconds
        # light and grain: means over every eighth frame of luma, brightness over all
        pa.field("brightness", pa.float64()),  # mean, 0 to 1
        pa.field("contrast", pa.float64()),  # standard deviation, 0 to 0.5
        pa.field("clipped_dark", pa.float64()),  # share of pixels at the lower end
        pa.field("clipped_bright", pa.float64()),  # share of pixels at the upper end
        pa.field("sharpness", pa.float64()),  # mean square of the Laplacian, which is its variance
        pa.field("noise", pa.float64()),  # standard deviation of white noise, 0 to 1 (Immerkær); fine texture raises it too
        # frames that show nothing, or nothing new
        pa.field("black_frames", pa.float64()),  # share of frames
        pa.field("white_frames", pa.float64()),  # share of frames
        pa.field("frozen_frames", pa.float64()),  # share of frames that repeat the one before
        pa.field("longest_freeze", pa.float64()),  # seconds
        # time; null for a single frame
        pa.field("flicker", pa.float64()),  # mean absolute difference of consecutive frames, 0 to 1
        pa.field("largest_change", pa.float64()),  # the largest of these differences: a cut, a flash
        pa.field("motion", pa.float64()),  # mean optical flow, frame diagonals a second
        pa.field("motion_smoothness", pa.float64()),  # 1 where flow stays, 0 where it turns about; null without motion
        pa.field("cuts", pa.int32()),  # hard cuts found by PySceneDetect
        # looks, for near-duplicates
        pa.field("phash", pa.string()),  # perceptual hashes in hex, evenly over the clip; null where it shows no detail
        pa.field("phash_mirrored", pa.string()),  # the same of the clip mirrored left to right
    ]
)

# What stage curate adds from the clips together, and its verdict. Scores of a reward model, where params name a table of
# them, follow as columns reward_VQ and so on, with reward_model.
CLIPS_SCHEMA = pa.schema(
    [
        *MEASURES_SCHEMA,
        pa.field("duplicate_of", pa.string()),  # the first clip, by name, of its group of near-duplicates; null for that one
        pa.field("copy", pa.int32()),  # how many clips of its group come before it
        pa.field("mirror_of", pa.string()),  # the first clip that this one mirrors, where there is one
        pa.field("status", pa.string(), nullable=False),  # ok | rejected (by a rule of params) | broken
        pa.field("reason", pa.string()),  # why rejected or broken; null when ok
    ]
)


def numbers(schema: pa.Schema) -> list[str]:
    """Columns that a rule can be about."""
    return [field.name for field in schema if field.type in (pa.float64(), pa.int32(), pa.int64())]
