"Moved: what stood here is in `genmix.readers.vowels`; `genmix.data` hands on its public names."

import warnings


def __getattr__(name: str) -> object:
    from genmix.readers import vowels

    value = getattr(vowels, name)
    public = name in ("four_vowels", "FourVowels", "VowelData")
    here = "genmix.data" if public else "genmix.readers.vowels"
    warnings.warn(
        f"genmix.vowels.{name} is deprecated, use {here}.{name}", DeprecationWarning, stacklevel=2
    )
    return value
