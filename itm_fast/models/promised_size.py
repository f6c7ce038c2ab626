"""Whether a configuration asks for a model that its weights can be of, found before memory is taken for one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from itm_fast.data.text.caption_vocabulary import CaptionVocabulary
from itm_fast.models.base import MatchingConfig, MatchingModel

# Beyond what is stored: weight norm makes a matrix twice, and VSRN's captioning head is in no original checkpoint.
_TIMES, _NUMBERS, _TENSORS = 2, 2**25, 1000


def check_promised_size(
    kind: type[MatchingModel], config: MatchingConfig, vocabulary: CaptionVocabulary, weights: Mapping[str, Tensor]
) -> None:
    """Build a model without memory, and stop where it has become larger than its weights.

    Args:
        kind: The model's class.
        config: From a file.
        vocabulary: From a file.
        weights: That the model will be given.

    Raises:
        ValueError: It has more or larger parameters.
    """
    most_tensors = _TIMES * len(weights) + _TENSORS
    most_numbers = _TIMES * sum(weight.numel() for weight in weights.values()) + _NUMBERS
    n_tensors = n_numbers = 0
    ours = threading.get_ident()

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal n_tensors, n_numbers
        if parameter is None or threading.get_ident() != ours:
            return
        n_tensors, n_numbers = n_tensors + 1, n_numbers + parameter.numel()
        if n_tensors > most_tensors or n_numbers > most_numbers:
            raise ValueError(
                f"the configuration is of a larger model than the weights: a {type(module).__name__} of it has a "
                f"{name} {tuple(parameter.shape)}"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        with torch.device("meta"), _NothingIsDrawn():
            kind(config, vocabulary)
    except RuntimeError as error:  # sizes whose product no integer holds
        raise ValueError(
            f"the configuration is of no model that can be built: {str(error).partition(chr(10))[0]}"
        ) from error
    finally:
        hook.remove()


class _NothingIsDrawn(TorchFunctionMode):
    """Leaves out the initial values: where there is no memory for them, torch imports its compiler to draw none."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)
