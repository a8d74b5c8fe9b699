"""What stage `package` copies into a model repository. It names one module, so that a packaged version outlives changes of
the others; where this file changes, so does LAYOUT (components/serving/layout.py)."""

from components.serving.backend.entry import TritonPythonModel

__all__ = ["TritonPythonModel"]
