r"""
Run one of detectron2's own tools with a config of FCOS.

    python -m fcos_d2.detectron2_tool /path/to/detectron2/tools/analyze_model.py \
        --tasks parameter --config-file configs/fcos_R_50_FPN_1x.yaml

The tools build their config with ``get_cfg()``, which does not know the keys of a plugin. This
module replaces it by a function that knows those of FCOS.
"""

import runpy
import sys
from pathlib import Path

import detectron2.config

from fcos_d2 import new_cfg

if __name__ in ("__main__", "__mp_main__"):  # "__mp_main__" in processes that a tool starts
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
        sys.exit(f"usage: python -m fcos_d2.detectron2_tool TOOL.py [ITS ARGUMENTS]\n{__doc__}")
    detectron2.config.get_cfg = new_cfg
    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    runpy.run_path(sys.argv[0], run_name=__name__)
