"""Which folder of what a name leads to holds the adapter's two files.

PEFT writes them at its root. Ludwig and Predibase write the same files deeper: into model_weights/
of a model's folder, which itself is model/ of a training's results.
Layout: https://github.com/ludwig-ai/ludwig/blob/master/ludwig/globals.py.
"""

from collections.abc import Callable
from typing import Final

NESTED_FOLDERS: Final = ("model_weights/", "model/model_weights/")


def adapter_folder(has_config: Callable[[str], bool]) -> str:
    """The first of "" and `NESTED_FOLDERS` with an adapter_config.json; "" where none has one.

    `has_config` is asked for one folder after the other, and for no more than need be.
    """
    return next(filter(has_config, ("", *NESTED_FOLDERS)), "")
