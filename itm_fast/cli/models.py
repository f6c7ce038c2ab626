"""`itm-fast models`: the models there are, what each is, and its presets."""

from __future__ import annotations

from dataclasses import dataclass

from itm_fast.cli.console import print_entries, print_json


@dataclass(frozen=True)
class Models:
    """List the models: paper, similarity of an image and a caption, and presets, which `itm-fast train` takes.

    "One vector each" says that images and captions are one vector each, so that captions compare with captions and
    images with images too (protocol cxc).
    """

    json: bool = False
    """Print one JSON object instead of text."""


def run(args: Models) -> int:
    """Print them, and return the exit code."""
    from itm_fast.choices import in_order
    from itm_fast.registry import ENTRIES, preset_names

    names = in_order(ENTRIES)
    if args.json:
        keys = ("paper", "year", "similarity", "one_vector")
        found = {name: {key: getattr(ENTRIES[name], key) for key in keys} for name in names}
        print_json({name: {**entry, "presets": in_order(preset_names(name))} for name, entry in found.items()})
        return 0
    print_entries(
        {
            name: (
                f"{ENTRIES[name].paper} {ENTRIES[name].year}: {ENTRIES[name].similarity}",
                f"presets: {', '.join(in_order(preset_names(name)))}",
            )
            for name in names
        }
    )
    print("\nitm-fast train MODEL --preset NAME trains one; itm-fast train MODEL --help lists its flags")
    return 0
