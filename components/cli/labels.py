"""Options that name the columns and words of people's labels, of all commands that read them."""

from typing import Annotated

import typer

OwnColumns = Annotated[
    str | None, typer.Option("--columns", help="The file's own names of columns: path_A=left,prompt=caption,label=vote.")
]
OwnLabels = Annotated[
    str | None, typer.Option("--labels", help="The file's own words: left=A,right=B,tie=same; all of them.")
]
Margin = Annotated[
    float, typer.Option("--rating-margin", min=0, help="Two clips whose ratings differ by this or less are the same.")
]
