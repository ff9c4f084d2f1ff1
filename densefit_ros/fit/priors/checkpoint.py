"""Tensors of a training checkpoint of others, without running anything that is in it.

torch's own ``weights_only`` refuses whole files for a name that it does not know, and trainers (PyTorch Lightning, which wrote
VPoser's) keep the state of their callbacks by class.  Here such a name becomes an inert stand-in, and only tensors are read.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import AssetError, BackendUnavailable


class _Unknown:
    """Takes whatever a pickle does to an object, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Unknown:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Of a list's kind."""

    def extend(self, values: Any) -> None:
        """Of a list's kind."""


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The tensors of ``state_dict``, or of the file itself where it has none.

    Raises AssetError for a file that is none, BackendUnavailable without torch.
    """
    try:
        import torch
        from torch._utils import _rebuild_parameter, _rebuild_tensor_v2
    except ImportError as error:
        raise BackendUnavailable(f"a checkpoint needs torch to be opened (pip install torch): {error}") from error
    admitted = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch", "Size"): torch.Size,
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return admitted.get((module, name)) or type("_Unknown", (_Unknown,), {})

    module = ModuleType("restricted_pickle")  # torch asks for its name
    module.Unpickler, module.load = Unpickler, lambda file, **kw: Unpickler(file, **kw).load()
    try:
        data = torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)
        data = data.get("state_dict", data) if isinstance(data, dict) else {}
        return {str(k): v.detach().numpy() for k, v in data.items() if isinstance(v, torch.Tensor)}
    except Exception as error:  # torch raises many kinds for a damaged or hostile file; all mean the same here
        raise AssetError(f"{path}: no checkpoint of tensors can be read from it ({type(error).__name__}: {error})") from error
