# SPDX-License-Identifier: Apache-2.0
"""flipmap as a library: the names that are meant for others. Where they live is ``bundle``, as MONAI's configs need it.

Nothing is imported before it is asked for, so that ``import flipmap`` is quick.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bundle import __version__, default_config, predict
    from bundle.cases import find_scans
    from bundle.errors import FlipmapError
    from bundle.methods.disyre import Disyre
    from bundle.methods.masked_bernoulli import MaskedBernoulli
    from bundle.methods.mdps import Mdps
    from bundle.methods.structured_flips import StructuredFlips
    from bundle.methods.synthetic_lesions import SyntheticLesions
    from bundle.networks.weights import load_weights
    from bundle.pipeline.job import Job
    from bundle.scoring.calibration import Calibration
    from bundle.synthesis.anomalies import RandSyntheticAnomalyd

__all__ = [
    "Calibration",
    "Disyre",
    "FlipmapError",
    "Job",
    "MaskedBernoulli",
    "Mdps",
    "RandSyntheticAnomalyd",
    "StructuredFlips",
    "SyntheticLesions",
    "__version__",
    "default_config",
    "find_scans",
    "load_weights",
    "predict",
]

#: Name → module of `bundle` that has it.
_WHERE = {
    "Calibration": "scoring.calibration",
    "Disyre": "methods.disyre",
    "FlipmapError": "errors",
    "Job": "pipeline.job",
    "MaskedBernoulli": "methods.masked_bernoulli",
    "Mdps": "methods.mdps",
    "RandSyntheticAnomalyd": "synthesis.anomalies",
    "StructuredFlips": "methods.structured_flips",
    "SyntheticLesions": "methods.synthetic_lesions",
    "__version__": "paths",
    "default_config": "paths",
    "find_scans": "cases",
    "load_weights": "networks.weights",
    "predict": "",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".".join(filter(None, ("bundle", _WHERE[name])))), name)


def __dir__() -> list[str]:
    return __all__


def _find_bundle() -> None:
    """See that ``bundle`` is the package beside this one: a folder of that name where Python was started comes first
    on its path, and would be taken instead.

    Raises:
        ImportError: when another package of that name was imported before.
    """
    folder = Path(__file__).resolve().parent.parent / "bundle"
    if (known := sys.modules.get("bundle")) is not None:
        places = [Path(place).resolve() for place in getattr(known, "__path__", ())]
        if folder not in places:
            raise ImportError(f"another package named bundle was imported before flipmap, from {places or known}")
        return
    spec = importlib.util.find_spec("bundle")
    if spec and spec.origin and Path(spec.origin).resolve().parent == folder:
        return
    sys.path.insert(0, str(folder.parent))  # for processes that are begun by this one, too
    importlib.invalidate_caches()
    ours = importlib.util.spec_from_file_location(
        "bundle", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert ours is not None and ours.loader is not None, "a file that is there"
    module = importlib.util.module_from_spec(ours)
    sys.modules["bundle"] = module
    ours.loader.exec_module(module)


_find_bundle()
