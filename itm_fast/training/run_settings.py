"""All that a training run depends on, and its file."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itm_fast.config import DataConfig, SAMConfig, TrainingConfig
from itm_fast.errors import DataError
from itm_fast.files.reading import read_json
from itm_fast.files.writing import written_aside
from itm_fast.models.base import MatchingConfig
from itm_fast.registry import model_class

SETTINGS = "train.json"


@dataclass(frozen=True)
class RunSettings:
    """All that a run depends on, as written to its train.json."""

    model: str
    """Name of the model in the registry."""
    model_config: MatchingConfig
    """The model's configuration."""
    data: DataConfig
    training: TrainingConfig
    sam: SAMConfig

    def save(self, path: Path) -> None:
        """Write as JSON, aside and then renamed."""
        with written_aside(path) as aside:
            content = json.dumps(dataclasses.asdict(self), indent=2, default=_plain)
            aside.write_text(f"{content}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunSettings:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: It is something else.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected the folder of a run that `itm-fast train` began")
        try:
            found = read_json(path)
            named = ("data_path", "vocab_path", "cache_tokens")
            paths = {name: Path(found["data"][name]) for name in named if found["data"].get(name)}
            training = {**found["training"], "trackers": tuple(found["training"]["trackers"])}
            training["lr_schedules"] = tuple(training.get("lr_schedules", ()))
            return cls(
                found["model"],
                model_class(found["model"]).config_class(**found["model_config"]),
                DataConfig(**{**found["data"], **paths}),
                TrainingConfig(**training),
                SAMConfig(**found["sam"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: not the settings of a run: {error}") from error


def _plain(value: Any) -> Any:
    """Paths as text, NumPy's numbers as Python's."""
    return str(value) if isinstance(value, Path) else value.item()
