"""What pyproject.toml cannot say: a wheel has a copy of it, by which a hub builds the app that sites approve."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPackages(build_py):
    """Setuptools' own, and the copy; an editable installation has the file itself."""

    def run(self) -> None:
        """Put it beside server/sources.py."""
        super().run()
        if not self.editable_mode:
            self.copy_file("pyproject.toml", str(Path(self.build_lib) / "server" / "pyproject.toml"))


setup(cmdclass={"build_py": BuildPackages})
