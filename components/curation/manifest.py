"""data/clips.parquet: one row a clip, every measure a column, a status and its reason for every row."""

import pyarrow as pa

# Where a clip cannot be read to its end, status is `broken` and all columns but clip, bytes and sha256 are null.
CLIPS_SCHEMA = pa.schema(
    [
        pa.field("clip", pa.string(), nullable=False),  # path relative to data/source/videos
        pa.field("status", pa.string(), nullable=False),  # ok | rejected (by a rule of params) | broken
        pa.field("reason", pa.string()),  # why rejected or broken; null when ok
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),  # of the file
        pa.field("container", pa.string()),
        pa.field("codec", pa.string()),
        pa.field("pixel_format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("fps", pa.float64()),  # average
        pa.field("frames", pa.int32()),
        pa.field("duration", pa.float64()),  # seconds
        pa.field("brightness", pa.float64()),  # mean luma, 0 to 1
        pa.field("clipped_dark", pa.float64()),  # share of pixels at the lower end of luma
        pa.field("clipped_bright", pa.float64()),  # share of pixels at the upper end
        pa.field("sharpness", pa.float64()),  # variance of the Laplacian of luma, mean over frames
        pa.field("flicker", pa.float64()),  # mean absolute difference of consecutive frames, 0 to 1
        pa.field("motion", pa.float64()),  # mean optical flow, frame diagonals a second
        pa.field("black_frames", pa.float64()),  # share of frames
        pa.field("frozen_frames", pa.float64()),  # share of frames that repeat the one before
        pa.field("phash", pa.string()),  # four 64-bit perceptual hashes in hex, over the clip
    ]
)

MEASURES = tuple(field.name for field in CLIPS_SCHEMA if field.type in (pa.float64(), pa.int32(), pa.int64()))
