"""Drop-ins for other code bases, a module each: the import line changes, signatures and results stay."""

from itm_fast.compat import (
    chan,
    decl,
    dime,
    esl,
    hat,
    hrem,
    l2rm,
    laps,
    ncr,
    ncs_metric,
    pycocoevalcap,
    rcar,
    scan,
    sgraf,
    vse_infty,
    vsepp,
)

__all__ = [
    "chan",
    "decl",
    "dime",
    "esl",
    "hat",
    "hrem",
    "l2rm",
    "laps",
    "ncr",
    "ncs_metric",
    "pycocoevalcap",
    "rcar",
    "scan",
    "sgraf",
    "vse_infty",
    "vsepp",
]
