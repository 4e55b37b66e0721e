"""The configuration: one YAML file, then `AUTHZ_SIDECAR_*` variables, then flags; each overrides the one before.

Public: `Config.load`, the sections it holds, and `config_reference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from authz_sidecar.config.overlay import from_environment, from_flags, lay_over, name_origins
from authz_sidecar.config.paths import unusable_paths
from authz_sidecar.config.reference import Key, config_reference
from authz_sidecar.config.rules import broken_rules
from authz_sidecar.config.tree import Tree, rebased
from authz_sidecar.documents import DocumentError, Problem, parse_yaml, validate

__all__ = ["Config", "Key", "config_reference"]


class Config(Tree):
    """A configuration that was checked as a whole. Only `load` makes one from a file."""

    @classmethod
    def load(
        cls, path: Path, environment: Mapping[str, str], overrides: Sequence[str] = (), *, check_paths: bool = True
    ) -> Config:
        """Read, overlay and validate.

        Args:
            path: the YAML file. Relative paths in it, in variables and in flags start at its directory.
            environment: all variables; those that start with `AUTHZ_SIDECAR_` are used, `__` stands for `.`.
            overrides: flags like `http.address=127.0.0.1:9180`.
            check_paths: whether to look at the paths too, as every start does; False for a file of another machine.

        Raises:
            DocumentError: with every problem found, each under file:line:column, its variable or its flag. Values are
                judged before rules between them, rules before paths.
        """
        label = str(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            message = f"cannot read the configuration: {error.strerror or error}"
            raise DocumentError([Problem(file=label, message=message)]) from None
        settings = [*from_environment(environment), *from_flags(overrides)]
        document = lay_over(parse_yaml(label, raw), settings, cls)
        try:
            config = rebased(validate(document, cls), path.absolute().parent)
            findings = list(broken_rules(config))
            if not findings and check_paths:
                findings = list(unusable_paths(config))
            if findings:
                problems = [document.problem(key, message) for key, message in findings]
                raise DocumentError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
        except DocumentError as error:
            raise name_origins(error, settings) from None
        return config
