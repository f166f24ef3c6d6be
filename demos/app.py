"""The Space: `msa demo` for the models that README.md's header names, the first as model, the others as adapters.

`msa push --space` fills in the header, and puts the library's own code beside this file.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from medsam_adapter.cli.models import open_predictor
from medsam_adapter.demo.server import Demo


def models_of(readme: Path) -> list[str]:
    """`models:` of the Space's header; sam-tiny if it names none."""
    _, header, _ = readme.read_text(encoding="utf-8").split("---", 2)
    return yaml.safe_load(header).get("models") or ["sam-tiny"]


def main() -> None:
    """Serve until the Space stops."""
    model, *adapters = models_of(Path(__file__).with_name("README.md"))
    with Demo(open_predictor(model), model, adapters) as demo:
        demo.launch()
        demo.serve_until_stopped()


if __name__ == "__main__":
    main()
