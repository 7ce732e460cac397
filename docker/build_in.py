"""Put a base model, and what the engine makes of it on CPUs, where every start of the image finds both.

python docker/build_in.py openai/whisper-base /usr/local/share/shrota
"""

import shutil
import sys
from pathlib import Path

from serve.engine.ctranslate2.merging import converted_model
from serve.model.base_model import place_of, resolve_base_model

name, into = sys.argv[1], Path(sys.argv[2])
base_dir = into / place_of(name)
shutil.copytree(resolve_base_model(name), base_dir)  # of a hub's cache, the files that its links lead to
converted_model(base_dir, None, "int8", cache_dir=into)
