"Moved: what stood here is in `genmix.readers.files`; `DataError` is in `genmix.data`."

import warnings


def __getattr__(name: str) -> object:
    from genmix.readers import files

    value = getattr(files, name)
    here = "genmix.data" if name == "DataError" else "genmix.readers.files"
    warnings.warn(
        f"genmix.files.{name} is deprecated, use {here}.{name}", DeprecationWarning, stacklevel=2
    )
    return value
