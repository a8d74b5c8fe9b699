"""First frames that clips are drawn from: image files, and their conditioning, which is made once a file and clip size."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.config.params import SamplingParams
from components.errors import BadInput
from components.files.atomic import discard, whole_file
from components.files.digests import file_digest
from components.generator.conditioning import Conditioning
from components.generator.family import Generator, WithImage

IMAGES = "images"  # folder in a state folder


@runtime_checkable
class EncodesImages(Protocol):
    """Of a generator: the conditioning on first frames. kept: folder where it stays; None keeps nothing."""

    kept: Path | None

    def keeping(self, folder: Path) -> Self:
        """The same parts in memory, with this folder."""
        ...

    def encode_images(self, images: Sequence[Image.Image], frames: int, height: int, width: int) -> Conditioning:
        """One row per image, for clips of this size."""
        ...


def image_conditioning(generator: Generator, files: Sequence[str | None], sampling: SamplingParams) -> Conditioning | None:
    """The tensors of the first frames in `files`, one row each; None for a generator that draws from text alone.

    BadInput where a clip has no image, or one that this generator would not read, and for a file that is no image.
    """
    family, given = generator.model.family, [file for file in files if file is not None]
    if not (isinstance(family, WithImage) and family.image and isinstance(generator, EncodesImages)):
        if given:
            raise BadInput(given[0], "the generator draws from text alone: leave the column out", key="image")
        return None
    if len(given) < len(files):
        raise BadInput(
            "params.yaml", "the generator draws from images: each prompt needs one, in a column `image`", key="sample"
        )
    return Conditioning.cat([one_image(generator, Path(file), sampling) for file in given])


def one_image(generator: EncodesImages, file: Path, sampling: SamplingParams) -> Conditioning:
    size = sampling.frames, sampling.height, sampling.width
    if not file.is_file():
        raise BadInput(file, "no such image", key="image")
    if generator.kept is None:
        return generator.encode_images([read_image(file)], *size)
    place = generator.kept / f"{file_digest(file)}-{'x'.join(map(str, size))}.safetensors"
    if place.exists():
        try:
            return Conditioning(load_file(place))
        except SafetensorError as error:
            discard(place, error)
    found = generator.encode_images([read_image(file)], *size)
    with whole_file(place) as partial:
        save_file({name: tensor.cpu().contiguous() for name, tensor in found.tensors.items()}, partial)
    return found


def read_image(file: Path) -> Image.Image:
    """RGB. BadInput where the file is no image."""
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise BadInput(file, f"no image that can be read: {str(error).splitlines()[0]}", key="image") from error


def with_images(text: Conditioning, images: Conditioning | None) -> Conditioning:
    """Both, of equal rows."""
    return text if images is None else images.over(text)


def no_image(like: Conditioning | None) -> Conditioning | None:
    """A row without an image, which is stored and never read."""
    if like is None:
        return None
    return Conditioning({name: torch.zeros_like(tensor[:1]) for name, tensor in like.tensors.items()})
