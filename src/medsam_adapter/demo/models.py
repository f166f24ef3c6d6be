"""The models of a demo: the one it was started with, the plain SAM under it, and further adapters beside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from medsam_adapter.adapters.switching import active_adapters
from medsam_adapter.errors import CheckpointError, MSAError
from medsam_adapter.inference.predictor import MSAPredictor

PLAIN = "SAM without adapter"


class Models:
    """A menu. Only what the demo was started with can be chosen, never a name that a visitor types.

    Args:
        predictor: of the model.
        name: of the model: run folder, Hub id or sam-tiny.
        adapters: further adapters for the same base: run folders or Hub ids, loaded when they are first chosen.

    Raises:
        CheckpointError: the same adapter twice.
    """

    def __init__(self, predictor: MSAPredictor, name: str, adapters: Sequence[str] = ()):
        self.predictor, self.name = predictor, name
        self._own = tuple(active_adapters(predictor.model))
        self._sources = {_label(source): source for source in adapters}
        if len(self._sources) != len(adapters) or _label(name) in self._sources:
            raise CheckpointError(
                "two adapters have one name", expected="folders of different names", found=", ".join([name, *adapters])
            )
        self._loaded: dict[str, str] = {}
        self._loading = threading.Lock()

    @property
    def choices(self) -> list[str]:
        """What the menu shows; the first is the one to begin with."""
        own = [_label(self.name)] if self._own else []
        return [*own, *self._sources, PLAIN]

    def names(self, choice: str) -> tuple[str, ...]:
        """The adapter names of a choice, as `MSAPredictor` takes them; loads an adapter that was not asked for before.

        Raises:
            CheckpointError: not on the menu, or an adapter that does not fit.
        """
        if choice == PLAIN:
            return ()
        if self._own and choice == _label(self.name):
            return self._own
        if choice not in self._sources:
            raise CheckpointError("there is no such model", expected=", ".join(self.choices), found=str(choice)[:80])
        with self._loading:  # two visitors may choose the same one first
            if choice not in self._loaded:
                self._load(choice)
        return (self._loaded[choice],)

    def _load(self, choice: str) -> None:
        name = f"menu_{len(self._loaded)}"
        try:
            self.predictor.load_adapter(self._sources[choice], name)
        except MSAError:
            raise
        except (OSError, ValueError) as error:
            found = type(error).__name__
            raise CheckpointError("this adapter cannot be opened", file=choice, found=found) from error
        self._loaded[choice] = name

    def takes_text(self, choice: str) -> bool:
        """Whether a sentence can be a prompt."""
        return bool(self.text_model(choice))

    def text_model(self, choice: str) -> str | None:
        """Name of the text model of a choice."""
        names = self.names(choice)
        if not names:
            return None
        config = self.predictor.model.peft_config[names[0]]
        return config.text_model if getattr(config, "use_text", False) else None

    def describe(self, choice: str) -> str:
        """One sentence: what answers, and what it sees."""
        names = self.names(choice)
        processor = self.predictor.processor_of(names)
        sees = processor.intensity or "what the window shows"
        if processor.intensity == "window" and processor.window_hu:
            sees = "{:g} to {:g} HU".format(*processor.window_hu)
        targets = self.targets(choice)
        about = f", trained on {', '.join(targets)}" if targets else ", not adapted to medical images"
        return f"{choice}{about}. It sees {sees}."

    def is_for_ct(self, choice: str) -> bool:
        """Whether it sees everything through a window in HU."""
        intensity = self.predictor.processor_of(self.names(choice)).intensity or ""
        return intensity == "window" or intensity.startswith("ct:")

    def targets(self, choice: str) -> list[str]:
        """What an adapter was trained on; empty if that is not known."""
        names = self.names(choice)
        if not names:
            return []
        loaded = self.predictor.model.loaded_adapters.get(names[0])
        named = (loaded.id2label or {}) if loaded else self.predictor.model.config.id2label
        return [name for value, name in named.items() if int(value) and not name.startswith("LABEL_")]

    def source(self, choice: str) -> tuple[str | None, bool]:
        """(adapter, is_plain) as a session notes them."""
        if choice == PLAIN:
            return None, bool(self._own)
        return self._sources.get(choice), False


def _label(source: str) -> str:
    """A folder by its last part, a Hub id as it is."""
    return Path(source).name if Path(source).exists() else source
