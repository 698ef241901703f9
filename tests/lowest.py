"""Print the lower bounds in pyproject.toml as constraints for pip, so that the tests can run on the oldest versions.

`make check DEPENDENCIES=lowest` installs them: `"h5py>=3.10"` becomes `h5py==3.10`. The tools of developers (pytest,
ruff, mypy) are left as they are.
"""

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest_versions() -> list[str]:
    """The lower bound of each dependency of the program and of its extras, as a pinned version, without extras."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    extras = {name: bounds for name, bounds in project["optional-dependencies"].items() if name != "dev"}
    bounds = [*project["dependencies"], *(bound for extra in extras.values() for bound in extra)]
    return [re.sub(r"(\[.*\])?>=", "==", bound) for bound in bounds]


if __name__ == "__main__":
    print("\n".join(lowest_versions()))
