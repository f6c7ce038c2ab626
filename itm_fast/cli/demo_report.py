"""What `itm-fast demo` shows of its stages: the same paragraphs and tables on the terminal and in Markdown."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import Any

from itm_fast.cli.console import console_of, print_table

KS = (1, 5, 10)
DIRECTIONS = {"i2t": "image -> caption", "t2i": "caption -> image"}

Section = dict[str, Any]
Rows = list[list[str]]
Block = str | Rows
"""A paragraph, or the rows of a table with its headings first."""


def show(name: str, section: Section) -> None:
    """Print one stage to standard output.

    Args:
        name: "conditions", "data", "training", "retrieval" or "comparison".
        section: What the stage returned.
    """
    title, blocks_of = _STAGES[name]
    console = console_of(sys.stdout)
    console.print(f"\n[bold]{title}[/bold]")
    for block in blocks_of(section):
        if isinstance(block, str):
            print(textwrap.fill(block, 88, initial_indent="   ", subsequent_indent="   "))
        else:
            print_table(block[0], block[1:])
    console.file.flush()  # a reader of a pipe sees each stage when it is done


def markdown(results: dict[str, Any]) -> str:
    """All stages as one Markdown text.

    Args:
        results: Stage name -> what it returned.

    Returns:
        The text.
    """
    parts = ["# itm-fast demo"]
    for name, (title, blocks_of) in _STAGES.items():
        parts.append(f"## {title}")
        parts += [block if isinstance(block, str) else _markdown_table(block) for block in blocks_of(results[name])]
    return "\n\n".join(parts) + "\n"


def _markdown_table(rows: Rows) -> str:
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def _conditions(section: Section) -> list[Block]:
    return [
        f"itm-fast {section['version']}, torch {section['torch']}, {section['processor']}, "
        f"{section['kernels']} kernels, {section['dtype']}, threads: {section['threads']}. All figures below were "
        f"{section['evidence']}."
    ]


def _data(section: Section) -> list[Block]:
    images = section["n_images"]
    return [
        f"{images['train']} training and {images['test']} test images of {section['max_regions']} regions, with "
        f'{section["captions_per_image"]} captions each, such as "{section["example"]}"',
        "Scenes and features are generated, there is no photograph: recall here cannot be compared with published "
        "figures.",
    ]


def _training(section: Section) -> list[Block]:
    flags = ", ".join(section[flag] for flag in ("cross_attn", "raw_feature_norm", "agg_func"))
    warmup, losses = section["warmup_epochs"], section["epoch_losses"]
    phases = {"all negatives": losses[:warmup], "hardest negatives": losses[warmup:]}
    falls = (f"{part[0]:.2f} -> {part[-1]:.2f} on {name}" for name, part in phases.items() if part)
    return [
        f"SCAN ({flags}), embeddings of {section['embed_size']}: {section['steps']} steps of {section['batch_size']} "
        f"pairs in {section['seconds']:.0f}\u00a0s. Loss a pair, first and last epoch: {', '.join(falls)}."
    ]


def _retrieval(section: Section) -> list[Block]:
    conditions = section["conditions"]
    rows = [["% with a right answer among the first K", *(f"R@{k}" for k in KS)]]
    for direction, name in DIRECTIONS.items():
        for label, source in ((name, section), ("   by chance", section["chance"])):
            rows.append([label, *(f"{source[direction][f'R@{k}']:.1f}" for k in KS)])
    return [f"{conditions['n_images']} images and {conditions['n_captions']} captions that training did not see.", rows]


def _comparison(section: Section) -> list[Block]:
    measured = {
        f"{section['n_images']} x {section['n_captions']} scores": section["score_seconds"],
        f"training step, {section['batch_size']} pairs": section["step_seconds"],
    }
    rows = [["", "fused", "plain PyTorch", "ratio"]]
    for name, seconds in measured.items():
        fused, plain = seconds["fused"], seconds["reference"]
        rows.append([name, _duration(fused), _duration(plain), f"{plain / fused:.1f}x"])
    recalls = section["recalls"]
    agreement = "the same" if recalls["fused"] == recalls["reference"] else f"NOT the same: {recalls}"
    return [
        f"Both score the same embeddings: {section['max_regions']} regions, up to {section['max_words']} words, dim "
        f"{section['dim']}. Plain PyTorch loops over captions as SCAN's code does. A step is encoders, similarity, "
        f"loss, backward and Adam. Medians of {section['repeats']} runs that take turns.",
        rows,
        f"Largest difference of two scores: {section['largest_difference']:.1e} (scores up to "
        f"{section['largest_score']:.2f}). R@1, R@5 and R@10 of both are {agreement}.",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


_STAGES: dict[str, tuple[str, Callable[[Section], list[Block]]]] = {
    "conditions": ("Where this ran", _conditions),
    "data": ("1. Data", _data),
    "training": ("2. Training", _training),
    "retrieval": ("3. Retrieval", _retrieval),
    "comparison": ("4. Fused operator beside plain PyTorch", _comparison),
}
