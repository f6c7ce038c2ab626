"""Drop-ins for other code bases, a module each: the import line changes, signatures and results stay."""

from itm_fast.compat import (
    ncs_metric,
    pycocoevalcap,
    pylate,
    scan,
    sentence_transformers,
    sgraf,
    vse_infty,
    vsepp,
)

__all__ = [
    "ncs_metric",
    "pycocoevalcap",
    "pylate",
    "scan",
    "sentence_transformers",
    "sgraf",
    "vse_infty",
    "vsepp",
]
