"Everything that setuptools needs stands in settings.ini; this file only hands it over."

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

statuses = {
    "1": "1 - Planning",
    "2": "2 - Pre-Alpha",
    "3": "3 - Alpha",
    "4": "4 - Beta",
    "5": "5 - Production/Stable",
}
repository, documentation = cfg["git_url"].rstrip("/"), cfg["doc_host"] + cfg["doc_baseurl"]


def read_elsewhere(text):
    """The README for a page that has none of its files.

    Links lead to this version in the repository; without a repository they are plain text.
    """
    if not repository:
        # a picture, with its caption
        text = re.sub(r"!\[[^\]]*\]\((?!\w+:)[^)]+\)\n+(\*[^\n]+\*\n+)?", "", text)
        return re.sub(r"\[([^\]]+)\]\((?![\w#]+:|#)[^)]+\)", r"\1", text)
    text = re.sub(r"(!\[[^\]]*\]\()(?!\w+:)", rf"\1{repository}/raw/v{cfg['version']}/", text)
    return re.sub(r"(\[[^\]]+\]\()(?!\w+:|#)", rf"\1{repository}/blob/v{cfg['version']}/", text)


urls = {"Homepage": repository, "Documentation": documentation}
if repository:
    urls["Changelog"] = f"{repository}/blob/{cfg['branch']}/CHANGELOG.md"
    urls["Issues"] = f"{repository}/issues"

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=read_elsewhere((here / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    project_urls={name: url for name, url in urls.items() if url},
    license_expression=cfg["license"].upper(),
    license_files=["LICENSE"],
    keywords=cfg["keywords"].split(),
    classifiers=[
        f"Development Status :: {statuses[cfg['status']]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *[f"Programming Language :: Python :: {version}" for version in cfg["pythons"].split()],
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    # an editable install then works from any folder, also from the one that holds this clone
    package_dir={"": "."},
    packages=find_packages(include=["genmix", "genmix.*"]),
    package_data={"genmix": ["published/*", "published/*/*"]},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg["requirements"].split(),
    extras_require={
        "dev": cfg["dev_requirements"].split(),
        "cluster": cfg["cluster_requirements"].split(),
        "ray": cfg["ray_requirements"].split(),
    },
    entry_points={
        "console_scripts": cfg["console_scripts"].split(),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
