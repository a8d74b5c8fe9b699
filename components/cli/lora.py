"""`reelign lora`: LoRA files of any tool inspected and rewritten for another."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from components.cli.output import AsJson, print_json
from components.contracts import BASE_GENERATOR
from components.errors import BadInput
from components.files.locks import sole_writer

if TYPE_CHECKING:
    from components.generator.family import Family
    from components.generator.lora_dialects import Inspected

app = typer.Typer(no_args_is_help=True, help="LoRA files: what they change, and the same for another tool.")

File = Annotated[Path, typer.Argument(help="A LoRA: a safetensors file of any name, or a folder with one.")]
Generator = Annotated[
    Path, typer.Option(help="The generator that it is for: a diffusers pipeline folder, or a file of infra/architectures.")
]


@app.command(epilog="Example: reelign lora inspect style.safetensors")
def inspect(file: File, generator: Generator = Path(BASE_GENERATOR), as_json: AsJson = False) -> None:
    """Print a LoRA's dialect, layers, ranks, strengths and precision. Exit code 2 where it cannot be applied whole.

    Only the generator's configuration is read.
    """
    from components.generator.lora_dialects import inspect_lora

    family, transformer = shapes_of(generator)
    show(inspect_lora(file, transformer, family.original_name), as_json)


@app.command(epilog="Example: reelign lora convert models/aligned/dpo dpo.safetensors --to comfyui")
def convert(
    context: typer.Context,
    file: File,
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    to: Annotated[
        Literal["diffusers", "comfyui", "ai-toolkit", "kohya", "diffsynth"],
        typer.Option(help="Dialect to write; kohya is also musubi-tuner's."),
    ],
    generator: Generator = Path(BASE_GENERATOR),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite a LoRA for another tool: the same change, with the same alpha / rank, under its names.

    A file that cannot be applied whole is refused with the tensor's name. So is a tensor that the dialect has no place for:
    only comfyui and kohya hold differences, LoKr and LoHa.
    """
    from components.generator.lora_dialects import convert_lora

    if out.suffix != ".safetensors":
        raise BadInput(out, "is no name of a safetensors file")
    context.with_resource(sole_writer(out))
    if out.exists() and not overwrite:
        raise BadInput(out, "exists already; --overwrite replaces it")
    family, transformer = shapes_of(generator)
    show(convert_lora(file, out, to, transformer, family.original_name), as_json)


def shapes_of(generator: Path) -> "tuple[Family, Any]":
    """The family and its transformer from shapes alone; BadInput where nothing describes one."""
    import torch

    from components.generator.folder import family_of, known_family
    from components.generator.parts import read_object

    if generator.is_file():
        configs = read_object(generator)
        family = known_family(generator, configs)
    else:
        family = family_of(generator)
        configs = family.read_configs(generator)
    with torch.device("meta"):
        return family, family.untrained("transformer", configs)


def show(found: "Inspected", as_json: bool) -> None:
    if as_json:
        print_json(asdict(found) | {"file": str(found.file)})
        return
    print(f"{found.file}: {found.tensors} tensors for {len(found.layers)} layers, {counted(found.dtypes)}")
    print(f"dialect: {found.dialect or 'none of reelign lora convert'}")
    groups: dict[str, int] = {}
    for layer in found.layers:
        if layer.rank is not None and layer.scale is not None:
            what = f"rank {layer.rank}, alpha {layer.rank * layer.scale:g}, strength {layer.scale:g}"
        else:
            what = " ".join(layer.kinds)
        groups[what] = groups.get(what, 0) + 1
    for what, count in groups.items():
        print(f"{count} layers: {what}")


def counted(dtypes: dict[str, int]) -> str:
    return ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())
