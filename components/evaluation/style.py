"""The style sheet of the pages: report.css, and a colour for each method."""

from pathlib import Path

from markupsafe import Markup

from components.methods import METHODS

SHEET = Path(__file__).with_name("report.css")


def style_sheet() -> Markup:
    """For a page's <style>: `--method-<method>` is a method's colour, on light and on dark ground, and the class `<method>`
    sets it as `--hue`."""
    light, dark = (
        " ".join(f"--method-{name}: {method.colour[ground]};" for name, method in METHODS.items()) for ground in (0, 1)
    )
    hues = " ".join(f".{name} {{ --hue: var(--method-{name}); }}" for name in METHODS)
    return Markup(
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n{hues}\n{SHEET.read_text()}"
    )
