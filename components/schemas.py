"""Schemas of the tables that pass between rooms, by the path in components/contracts.py that they lie at."""

import pyarrow as pa

from components.contracts import DIMENSIONS, rating_columns

# MEASURES: what stage measure finds in the clip alone. A clip that cannot be read to its end has a `broken` reason and no
# measures of frames; fields of its container are kept as far as they could be read.
MEASURES_SCHEMA = pa.schema(
    [
        pa.field("clip", pa.string(), nullable=False),  # path relative to SOURCE_VIDEOS
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
        pa.field("rotation", pa.int32()),  # degrees, as the file's metadata has it; such a clip is broken
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

# CLIPS: what stage curate adds from the clips together, and its verdict. Scores of a reward model, where params name a
# table of them, follow as columns reward_VQ and so on, with reward_model.
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

# What stage pairs reads of CLIPS_SCHEMA.
VERDICTS_SCHEMA = pa.schema([CLIPS_SCHEMA.field(name) for name in ("clip", "status", "reason")])

# PAIRS/<split>.parquet
PAIRS_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("path_A", pa.string(), nullable=False),  # relative to SOURCE_VIDEOS
        pa.field("path_B", pa.string(), nullable=False),
        pa.field("model_A", pa.string()),
        pa.field("model_B", pa.string()),
        *(pa.field(dimension, pa.int8()) for dimension in DIMENSIONS),  # 1 A better, -1 B better, 0 same, null unknown
        *(pa.field(name, pa.float64()) for side in "AB" for name in rating_columns(side)),  # mean rating, null unrated
        pa.field("decided_by", pa.string(), nullable=False),  # majority, reviewer, given, or votes of some annotators
        pa.field("annotators", pa.list_(pa.string()), nullable=False),  # names of its annotators
        pa.field("rows", pa.list_(pa.int32()), nullable=False),  # their lines of SOURCE_ANNOTATIONS
    ]
)

# CANDIDATES/candidates.parquet
CANDIDATES_SCHEMA = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("path", pa.string()),  # below CANDIDATES
        ("row", pa.int64()),  # of latents
        ("text_row", pa.int64()),  # of text
    ]
)

# What CANDIDATES_SCHEMA and SAMPLES_SCHEMA have besides where clips begin with an image.
IMAGE_FIELD = pa.field("image", pa.string())  # from the working folder


def candidate_scores_schema(dimensions: list[str]) -> pa.Schema:
    """CANDIDATE_SCORES by a reward model of these dimensions, and those of other sources (NAME.DIMENSION)."""
    numbers = [(name, pa.float64()) for name in (*dimensions, "reward")]
    text = [(name, pa.string()) for name in ("candidate_id", "prompt_id", "prompt", "reward_model", "frame_plan")]
    return pa.schema([*text[:3], *numbers, *text[3:], *_stamp(dimensions)])


def alignment_pairs_schema(dimensions: list[str]) -> pa.Schema:
    """ALIGNMENT_PAIRS by a reward model of these dimensions, and those of other sources (NAME.DIMENSION)."""
    numbers = [f"{side}_{name}" for side in ("chosen", "rejected") for name in (*dimensions, "reward")] + ["margin"]
    text = ("prompt_id", "prompt", "chosen", "rejected", "reward_model", "frame_plan")
    fields = [(name, pa.string()) for name in text] + [(name, pa.float64()) for name in (*numbers, "weight")]
    return pa.schema([*fields, ("tied", pa.bool_()), *_stamp(dimensions)])


def _stamp(dimensions: list[str]) -> list[tuple[str, pa.DataType]]:
    """The column with what other sources scored with, where there are some."""
    return [("sources", pa.string())] if any("." in name for name in dimensions) else []


# SAMPLES/<method>/samples.parquet
SAMPLES_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("path", pa.string()),  # below SAMPLES/<method>
    ]
)
